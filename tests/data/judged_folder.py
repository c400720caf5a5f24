"""Folders of pictures with scores, as `diffalign score` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffalign.data.pair import Paired, Pairing, pair_records
from tests.data.pictures import picture_file, write_rows


def scored(home: Path, prompts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Of each prompt one picture for every mapping of columns; ids p0, p1, ... in the order given."""
    home.mkdir(parents=True, exist_ok=True)
    rows = []
    for prompt, columns in prompts.items():
        for each in columns:
            name = f"p{len(rows)}"
            (home / f"{name}.png").write_bytes(picture_file(len(rows)))
            rows.append({"id": name, "file_name": f"{name}.png", "prompt": prompt, **each})
    return write_rows(home / "scores.jsonl", rows)


def by_reward(home: Path, *groups: Sequence[float | None]) -> Path:
    """One column, `r`; the prompts are "prompt 0", "prompt 1", ..."""
    return scored(home, {f"prompt {place}": [{"r": value} for value in group] for place, group in enumerate(groups)})


def made(source: Path, kind: Any = "pairs", **settings: Any) -> tuple[list[dict[str, Any]], Paired]:
    """The rows that come of it, and what was said."""
    rewards = settings.pop("rewards", {} if "votes" in settings else {"r": 1.0})
    done = pair_records(source, source.parent / "out.jsonl", Pairing(kind, rewards, **settings), overwrite=True)
    return [json.loads(line) for line in done.file.read_text("utf-8").splitlines()], done
