"""The command line as a user has it, in this process; and what must hold whenever it refuses something."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from diffalign import cli
from diffalign.config.yaml_values import write_yaml
from tests.training.tiny import tiny_settings


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Outcome:
    """`diffalign ARGUMENTS`: its exit code and all that it prints; an error that nobody caught is raised here."""
    out, err = io.StringIO(), io.StringIO()
    words = ["diffalign", *map(str, arguments)]
    with mock.patch.multiple(sys, argv=words, stdout=out, stderr=err), _own_logging():
        try:
            cli.main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())


@contextmanager
def _own_logging() -> Iterator[None]:
    """Let `main` set logging up for itself, as in a process of its own."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def settings_file(home: Path, changes: Mapping[str, Any] | None = None, **sections: Any) -> Path:
    """A config of four small steps on the zoo, as `home/x.yaml`; `changes` are of dotted paths."""
    settings = deepcopy(tiny_settings(home, **sections))
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        here = settings
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    file = home / "x.yaml"
    file.write_text(write_yaml(settings), encoding="utf-8")
    return file


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below, with a hash of what is in it."""
    found = {}
    for home, folders, files in os.walk(folder):
        for name in folders:
            found[str(Path(home, name).relative_to(folder))] = "folder"
        for name in files:
            path = Path(home, name)
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check_refusal(seen: Outcome, says: tuple[str, ...], code: int = 2) -> None:
    """One readable message that says all these words, and the exit code."""
    assert seen.code == code, (seen.code, seen.err)
    told = [line for line in seen.err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 or seen.err.startswith("Usage: "), seen.err
    assert "Traceback" not in seen.err
    message = seen.err.partition("error: ")[2]
    assert len(message) < 2000, message
    for words in says:
        assert words in seen.err, seen.err
    if os.environ.get("SHOW_MESSAGES"):  # to read them all: SHOW_MESSAGES=1 pytest -s
        print(f"\n{seen.err}", file=sys.__stdout__, end="")


def refused(home: Path, *arguments: object, says: tuple[str, ...], code: int = 2, may_cache: bool = False) -> Outcome:
    """Call, check what is said, and that below `home` nothing is new, changed or lost.

    Args:
        may_cache: entries of the caches may be new: whole ones, of what was fine.
    """
    before = tree(home)
    seen = call(*arguments)
    check_refusal(seen, says, code)
    assert seen.out == ""
    after = tree(home)
    if may_cache:
        after = {name: content for name, content in after.items() if name in before or name.split("/")[0] != "cache"}
        assert not [path for path in (home / "cache").rglob(".*")]
    assert after == before
    return seen
