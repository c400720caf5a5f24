"""A progress bar for drawing, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def drawing_bar(total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every quarter in a log file; yields what to call with (done, total)."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("drawing"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("drawing", total=total)
            yield lambda done, _: bar.update(task, completed=done)
        return
    said = 0

    def note(done: int, total: int) -> None:
        nonlocal said
        if done * 4 // total > said:
            said = done * 4 // total
            print(f"pictures drawn: {done}/{total}", file=sys.stderr, flush=True)

    yield note
