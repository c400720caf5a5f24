"""The terminal's tables of what rewards say of a set of pictures, and how their values lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

_BINS = 8
_REASONS = 5
_WIDTH = 40  # columns of the longest bar


def score_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a reward.

    Args:
        summary: what `diffalign.evaluation.score_records` returns as `summary`.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("reward", no_wrap=True)
    for name in ("unit", "mean", "std", "least", "greatest", "scored", "unscored"):
        table.add_column(name, justify="right")
    for column, facts in summary.items():
        label = Text(column, style="bold")
        numbers = [f"{facts[name]:.4g}" if name in facts else "-" for name in ("mean", "std", "least", "greatest")]
        unit = "" if facts["unit"] == "1" else facts["unit"]
        table.add_row(label, unit, *numbers, str(facts["scored"]), str(facts["unscored"]))
    return table


def unscored_lines(summary: Mapping[str, Mapping[str, Any]], *, most: int | None = _REASONS) -> list[str]:
    """Why samples have no score, a line a reason; what all rewards say alike stands there once.

    Args:
        summary: as of `score_table`.
        most: of each reward; of the others the number is told. None: all of them.
    """
    reasons = [facts["reasons"] for facts in summary.values()]
    alike = [reason for reason in reasons[0] if all(reason in each for each in reasons)] if len(reasons) > 1 else []
    first = next(iter(summary.values()), {})
    lines = [f"{reasons[0][reason]} unscored by all: {_with_name(reason, first)}" for reason in alike]
    for column, facts in summary.items():
        own = {reason: count for reason, count in facts["reasons"].items() if reason not in alike}
        lines += [
            f"{column}: {count} unscored: {_with_name(reason, facts)}" for reason, count in list(own.items())[:most]
        ]
        rest = facts["unscored"] - sum(facts["reasons"][reason] for reason in alike) - sum(list(own.values())[:most])
        lines += [f"{column}: {rest} unscored for other reasons, which stand in the rows"] if rest else []
    return lines


def _with_name(reason: str, facts: Mapping[str, Any]) -> str:
    """The reason, after the id of the first sample that has it, which the reason itself may not say."""
    name = facts.get("first_unscored", {}).get(reason, "")
    return shortened(reason) if not name or name in reason else f"{shortened(name, 80)}: {shortened(reason)}"


def shortened(reason: str, most: int = 160) -> str:
    """The beginning of a reason that is too long, with dots that say so."""
    return reason if len(reason) <= most else f"{reason[: most - 3]}..."


def score_histogram(column: str, unit: str, values: Sequence[float]) -> Table:
    """How the values of one reward lie: a bar for each of a few values that come again, or for each of up to 8 equal bins.

    Args:
        column: of the reward.
        unit: of its values; "1" for a pure number.
        values: those that are finite; none: no bars.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False, title_justify="left")
    table.title = Text(column if unit == "1" else f"{column}, {unit}", style="bold")
    table.add_column(justify="right")
    table.add_column(width=_WIDTH)
    table.add_column(justify="right")
    bins = _bins(values)
    most = max((count for _, count in bins), default=0)
    for label, count in bins:
        table.add_row(label, Bar(most, 0, count, width=_WIDTH), str(count))
    return table


def _bins(values: Sequence[float]) -> list[tuple[str, int]]:
    distinct = Counter(values)
    if len(distinct) <= 2 or len(distinct) <= min(_BINS, len(values) // 2):
        return [(f"{value:.4g}", count) for value, count in sorted(distinct.items())]
    counts, edges = np.histogram(values, bins=min(_BINS, len(values).bit_length()))  # Sturges 1926
    digits = _digits(edges)
    return [
        (f"{low:.{digits}f} to {high:.{digits}f}", int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _digits(edges: np.ndarray) -> int:
    """Decimals that tell the edges apart."""
    return int(np.clip(1 - np.floor(np.log10(edges[1] - edges[0])), 0, 9))


def set_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a reward of whole sets, then one a group.

    Args:
        summary: what `diffalign.evaluation.score_sets` returns.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("of the set", overflow="fold")
    for name in ("unit", "value", "scored", "unscored"):
        table.add_column(name, justify="right")
    for column, facts in summary.items():
        label = Text(column, style="bold")
        unit = "" if facts["unit"] == "1" else facts["unit"]
        table.add_row(label, unit, _number(facts), str(facts["scored"]), str(facts["unscored"]))
        for group, own in facts.get("groups", {}).items():
            table.add_row(Text(f"  {group}"), "", _number(own), str(own["scored"]), "")
    return table


def left_out_lines(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why sets have no value, and why samples are left out of them, a line a reason.

    Args:
        summary: as of `set_table`.
    """
    lines = []
    for column, facts in summary.items():
        lines += [f"{column}: {shortened(facts['reason'])}"] if "reason" in facts else []
        lines += [f"{column}: {count} left out: {shortened(reason)}" for reason, count in facts["reasons"].items()]
        own = {group: each["reason"] for group, each in facts.get("groups", {}).items() if "reason" in each}
        lines += [f"{column}, {group}: {shortened(reason)}" for group, reason in own.items()]
    return lines


def _number(facts: Mapping[str, Any]) -> str:
    return "-" if facts["value"] is None else f"{facts['value']:.4g}"
