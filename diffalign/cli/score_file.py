"""Where `diffalign score` writes when it is not told."""

from __future__ import annotations

import glob
from itertools import takewhile
from pathlib import Path

from diffalign.data.media_files import MEDIA_FILES
from diffalign.data.picture_rows import is_pattern
from diffalign.data.row_files import LISTING


def default_file(source: Path) -> Path:
    """NAME-scores.parquet in the folder at hand; a .jsonl where media lie there, which a .parquet would hide from readers.

    One that is there already is gone on with, whichever it is.

    Args:
        source: as on the command line; - is stdin.
    """
    if str(source) == "-":
        name = ""
    elif is_pattern(source):
        name = Path(*takewhile(lambda part: not glob.has_magic(part), source.parts)).resolve().name
    else:
        whole = source.resolve()
        name = whole.parent.name if whole.name == LISTING else whole.name if whole.is_dir() else whole.stem
    here = any(each.suffix.lower() in MEDIA_FILES for each in Path().iterdir())
    stem = "-".join(filter(None, (name.lstrip("."), "scores")))
    there = [ending for ending in (".parquet", ".jsonl") if Path(stem + ending).exists()]
    return Path(stem + (there[0] if there else ".jsonl" if here else ".parquet"))
