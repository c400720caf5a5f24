"""The terminal's table of what came of a reward's self-test."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

_WORDS = {True: ("passed", "green"), False: ("FAILED", "bold red"), None: ("-", "dim")}


def selftest_table(reward: str, checks: Iterable[tuple[str, bool | None, str]]) -> Table:
    """One row a check.

    Args:
        reward: its name.
        checks: name, whether it passed (None: does not apply), and what was seen.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(reward)
    table.add_column("")
    table.add_column("seen", overflow="fold")
    for name, passed, detail in checks:
        word, style = _WORDS[passed]
        table.add_row(name, Text(word, style=style), Text(detail))
    return table
