"""How a reward agrees with comparisons: tables for the terminal, and the calibration plot. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from diffalign.exceptions import ConfigError
from diffalign.reports.scores import shortened

PLOTS = (".png", ".svg")
_SIZE, _DOTS = (5.0, 5.0), 150  # inches, dots an inch
_WIDEST = 32  # letters of a name in a legend
_REASONS = 3  # that are shown


def bench_table(benched: Sequence[Mapping[str, Any]]) -> Table:
    """One row a reward.

    Args:
        benched: what `diffalign.evaluation.Benched.as_dict` gives.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("reward", overflow="fold", min_width=12)
    interval = f"{100 * _confidence(benched):g} %\ninterval"
    for name in ("accuracy", interval, "with\nties", "pairs", "ties", "calib.\nerror", "tempe-\nrature"):
        table.add_column(name, justify="right", no_wrap=True)  # names alone have to give way: 80 columns hold the rest
    for each in benched:
        label = Text(_without_folders(each["name"]), style="bold")
        accuracy, fit = each["accuracy"], each["calibration"]
        shown = ("-", "-") if accuracy is None else (_percent(accuracy["value"]), _interval(accuracy))
        table.add_row(
            label,
            *shown,
            _percent(each["accuracy_with_ties"]),
            str(each["comparisons"]),
            str(each["ties"]),
            f"{fit['error']:.3f}",
            f"{fit['temperature']:.3g}{'' if fit['fitted'] else ' given'}",
        )
    return table


def bench_lines(benched: Sequence[Mapping[str, Any]]) -> list[str]:
    """What did not count, and what was tied by the reward: lines that stand below the table.

    Args:
        benched: as of `bench_table`.
    """
    lines = []
    for each in benched:
        name, reasons = _without_folders(each["name"]), list(each["unscored"].items())
        lines += [f"{name}: {count} not scored: {shortened(reason)}" for reason, count in reasons[:_REASONS]]
        if rest := sum(count for _, count in reasons[_REASONS:]):
            lines.append(f"{name}: {rest} more not scored; --json has the reasons")
        if each["equal"]:
            lines.append(f"{name}: {each['equal']} of equal reward")
    return lines


def _without_folders(name: str) -> str:
    """A reward as it was asked for, of its paths the last part."""
    return re.sub(r"(?<==)[^,;=]*/([^/,;=]+)", r"\1", name)


def held_out_table(measures: Mapping[str, Mapping[str, Any]]) -> Table:
    """What a run of `task: reward` measured on held-out prompts, one row a dimension."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("held-out prompts", overflow="fold")
    for name in ("accuracy", "with ties", "comparisons", "ties", "calibration error"):
        table.add_column(name, justify="right")
    for dimension, each in measures.items():
        table.add_row(
            Text(dimension, style="bold"),
            _percent(each["accuracy"]),
            _percent(each["accuracy_with_ties"]),
            str(each["comparisons"]),
            str(each["ties"]),
            f"{each['calibration_error']:.3f}",
        )
    return table


def check_plot(path: Path) -> None:
    """Whether a plot can be written there.

    Raises:
        ConfigError: it cannot.
    """
    if path.suffix.lower() not in PLOTS:
        raise ConfigError(f"--plot: must end in {' or '.join(PLOTS)}, got {path}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot: {path.parent}: no such folder")


def save_calibration_plot(path: Path, benched: Sequence[Mapping[str, Any]]) -> None:
    """Draw predicted against observed shares, one curve a reward; a dot's area grows with its comparisons. PNG or SVG.

    Args:
        path: where; written whole or not at all.
        benched: what `diffalign.evaluation.Benched.as_dict` gives.
    """
    from matplotlib.figure import Figure  # a second to import, and only a plot needs it

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    for each in benched:
        bins, total = each["calibration"]["bins"], each["comparisons"]
        across, up = [one["predicted"] for one in bins], [one["observed"] for one in bins]
        error = each["calibration"]["error"]
        (line,) = axes.plot(across, up, linewidth=1.5, label=f"{_short(each['name'])} (error {error:.3f})")
        axes.scatter(across, up, s=[20 + 300 * one["count"] / total for one in bins], color=line.get_color(), alpha=0.6)
    axes.set(
        xlabel="predicted: sigmoid(difference / temperature)",
        ylabel="observed: share of judges who agree",
        xlim=(0.48, 1.02),
    )
    axes.set_title(f"{benched[0]['comparisons']} comparisons; a dot's area: how many of them" if benched else "")
    figure.legend(loc="outside lower center", frameon=False)
    draft = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        figure.savefig(draft, dpi=_DOTS, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _short(name: str) -> str:
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST // 2 - 1]}…{name[-_WIDEST // 2 :]}"


def _confidence(benched: Sequence[Mapping[str, Any]]) -> float:
    return float(benched[0]["confidence"]) if benched else 0.95


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(each: Mapping[str, Any]) -> str:
    return f"{100 * each['low']:.1f} to {100 * each['high']:.1f}"
