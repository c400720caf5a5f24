"""A progress bar for pictures and other samples, on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def drawing_bar(total: int, verb: str = "drawn", what: str = "pictures") -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every quarter in a log file; yields what to call with (done, total)."""
    if os.environ.get("RANK", "0") != "0":  # of several processes, one speaks
        yield lambda done, total: None
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(f"{what} {verb}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(verb, total=total or None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    said = 0

    def note(done: int, total: int) -> None:
        nonlocal said
        if done * 4 // total > said:
            said = done * 4 // total
            print(f"{what} {verb}: {done}/{total}", file=sys.stderr, flush=True)

    yield note
