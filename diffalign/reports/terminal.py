"""The before/after table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from diffalign.reports.comparison import comparison_rows, confidence_text, form_heading, how_measured, tie_rule
from diffalign.reports.row import TRAINED_ON, Row

_COLOURS = {"rose": "green", "fell": "red", "unclear": "yellow", "unknown": "", "form": ""}


def evaluation_table(summary: dict[str, Any]) -> Table:
    """Base against aligned, one row a reward, then corrected score and diversity where present.

    Args:
        summary: what evaluation/summary.json holds.

    Green: the interval lies above zero; red: below; yellow: it includes zero. What is no reward (volume, diversity, ...)
    has a heading of its own and no colour, for neither side of it is the better one.
    """
    rows = comparison_rows(summary)
    table = Table(
        title="base against aligned",
        caption=Text(_caption(summary, rows)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("reward", min_width=15, overflow="fold")
    table.add_column("base", justify="right")
    table.add_column("aligned", justify="right")
    table.add_column("difference", justify="right")
    table.add_column("wins/ties/\nlosses", justify="right")
    table.add_column("win rate", justify="right")
    for row in rows:
        if not row.is_form:
            table.add_row(*_cells(row))
    if heading := form_heading(rows):
        table.add_section()
        table.add_row(Text(heading, style="not bold dim"))
        for row in rows:
            if row.is_form:
                table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[Text, ...]:
    name = Text(row.name, style="bold")
    if row.tally and row.note:
        name.append(f"\n{row.note}", style="not bold dim")
    if row.unscored:
        name.append(f"\n{row.unscored} unscored", style="not bold yellow")
    difference, rate = row.scale.change(row.difference), row.win_rate_text
    if row.verdict != "unknown":
        difference += f"\n[{row.scale.bare(row.low)}, {row.scale.bare(row.high)}]"
    if row.win_rate_interval:
        rate += f"\n[{row.win_rate_interval.replace(' to ', ', ')}]"
    return (
        name,
        Text(row.scale.level(row.base)),
        Text(row.scale.level(row.aligned)),
        Text(difference, style=_COLOURS[row.colour]),
        Text(row.tally.replace(" / ", "/")),
        Text(rate),
    )


def _caption(summary: Mapping[str, Any], rows: list[Row]) -> str:
    parts = [f"in brackets: {confidence_text(summary)} interval; higher is better in a reward", how_measured(summary)]
    if heading := form_heading(rows):
        parts.insert(1, f"{heading}: neither higher nor lower is better by itself")
    parts += [f"{row.name}: {row.unit}, {row.note}" for row in rows if row.note and not row.tally]
    parts += [row.told.removesuffix(".") for row in rows if row.told]
    if rule := tie_rule(rows):
        parts.append(f"win rate: {rule}")
    if any(row.note == TRAINED_ON for row in rows):
        parts.append(f"{TRAINED_ON}: as the config says")
    return "; ".join(part for part in parts if part)
