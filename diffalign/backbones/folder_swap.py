"""A finished folder in the place of an older one: at every moment the old or the new one can be had, whole.

No system renames over a folder that has something in it, so the old one steps aside first, to `.NAME.old`. A cut between
the two renames leaves it there, and whoever owns the folder calls `recover_folder` before reading it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def replace_folder(draft: Path, folder: Path) -> None:
    """Put `draft` in the place of `folder`, or in its name if there is none; both stand in the same folder.

    Raises:
        OSError: it cannot be done; the old folder is in its place, unharmed.
    """
    recover_folder(folder)
    for path in draft.rglob("*"):
        if path.is_file():
            open_to_readers(path)
            _flush(path)
    aside = _aside(folder)
    if folder.exists():
        os.replace(folder, aside)
    try:
        os.replace(draft, folder)
    except OSError:
        recover_folder(folder)
        raise
    _flush(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def open_to_readers(path: Path) -> None:
    """Give a file the rights that the umask leaves: safetensors lets its owner alone read what it writes."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def recover_folder(folder: Path) -> None:
    """Put the old folder back if a replacement was cut off in between."""
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):  # none there, or another process was faster
        os.replace(aside, folder)


def recover_folders(home: Path) -> None:
    """The same for every folder in `home`, which must be one that only diffalign writes in."""
    for aside in home.glob(".*.old"):
        recover_folder(home / aside.name[1:].removesuffix(".old"))


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
