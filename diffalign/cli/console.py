"""The consoles that results are printed on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_NO_LIMIT = 100_000  # columns: more than any table needs


def results_console(*, highlight: bool = True, soft_wrap: bool = False) -> Console:
    """A console on stdout: as wide as the terminal, or as COLUMNS says; in a pipe or a log, as wide as it takes.

    Args:
        highlight: colour numbers and the like.
        soft_wrap: leave it to the terminal to break lines that are too long for it.
    """
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _NO_LIMIT
    return Console(width=width, highlight=highlight, soft_wrap=soft_wrap)
