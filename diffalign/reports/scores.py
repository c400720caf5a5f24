"""The terminal's table of what rewards say of a set of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def score_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a reward.

    Args:
        summary: what `diffalign.evaluation.score_records` returns as `summary`.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("reward", overflow="fold")
    for name in ("unit", "mean", "std", "least", "greatest", "scored", "unscored"):
        table.add_column(name, justify="right")
    for column, facts in summary.items():
        label = Text(column, style="bold")
        for reason, count in facts["reasons"].items():
            label.append(f"\n{count} unscored: {reason:.120}", style="not bold yellow")
        numbers = [f"{facts[name]:.4g}" if name in facts else "-" for name in ("mean", "std", "least", "greatest")]
        unit = "" if facts["unit"] == "1" else facts["unit"]
        table.add_row(label, unit, *numbers, str(facts["scored"]), str(facts["unscored"]))
    return table
