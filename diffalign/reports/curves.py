"""The curves of a run: which figures of metrics.jsonl are drawn, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.reports.charts import Line, draw_chart, running_mean
from diffalign.reports.comparison import reward_scale
from diffalign.reports.numbers import finite, plain
from diffalign.reports.run_folder import RunReport

_SMOOTH_FROM = 20  # points; shorter series are drawn as they are


@dataclass(frozen=True)
class Key:
    """One entry of a legend."""

    label: str
    colour: int
    shape: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its SVG is our own markup, everything else is plain text."""

    title: str
    svg: str
    keys: tuple[Key, ...]
    note: str


@dataclass(frozen=True)
class _Plan:
    """A chart of training figures: (label, metric or function of the row, colour, shape)."""

    title: str
    series: tuple[tuple[str, str | Callable[[Mapping[str, Any]], float], int, str], ...]
    note: str = ""
    flat: float | None = None


def _excess(which: str) -> Callable[[Mapping[str, Any]], float]:
    def percent(row: Mapping[str, Any]) -> float:
        reference = finite(row.get(f"reference_{which}_error"))
        return 100 * (finite(row.get(f"{which}_error")) / reference - 1) if reference > 0 else math.nan

    return percent


_PLANS = (
    _Plan("Reward of the rounds", (("reward", "round_reward", 1, "line"),), "of what the policy drew to learn from"),
    _Plan("Loss", (("loss", "loss", 1, "line"),)),
    _Plan("Margin", (("margin", "margin", 1, "line"),), "above 0: winner preferred", 0.0),
    _Plan("Pair accuracy", (("accuracy", "pair_accuracy", 1, "line"),), "share of pairs with margin above 0", 0.5),
    _Plan(
        "Label accuracy",
        (("accuracy", "label_accuracy", 1, "line"),),
        "share of samples on their side of the usual gain",
        0.5,
    ),
    _Plan("Group accuracy", (("accuracy", "group_accuracy", 1, "line"),), "share of groups with margin above 0", 0.5),
    _Plan("Set accuracy", (("accuracy", "accuracy", 1, "line"),), "share of groups with margin above 0", 0.5),
    _Plan(
        "Denoising error",
        (
            ("winner, policy", "winner_error", 1, "line"),
            ("winner, reference", "reference_winner_error", 1, "dashed"),
            ("loser, policy", "loser_error", 2, "line"),
            ("loser, reference", "reference_loser_error", 2, "dashed"),
        ),
    ),
    _Plan("Error of good and bad samples", (("good", "good_error", 1, "line"), ("bad", "bad_error", 2, "line"))),
    _Plan(
        "Error against the reference, %",
        (("winner", _excess("winner"), 1, "line"), ("loser", _excess("loser"), 2, "line")),
        "above 0: the policy denoises worse than the reference",
        0.0,
    ),
    _Plan("Gradient norm", (("gradient norm", "gradient_norm", 1, "line"),)),
    _Plan("Reference drift", (("drift", "reference_drift", 1, "line"),), "distance of the policy from the reference"),
)


def draw_training_curves(run: RunReport) -> list[Chart]:
    """The figures of the "step" events; those that this method does not log are left out."""
    marks = _steps_of(run.alarms)
    charts = (_draw_plan(plan, run.steps or (), marks) for plan in _PLANS)
    return [chart for chart in charts if chart is not None]


def draw_sample_curves(run: RunReport) -> list[Chart]:
    """Mean of each reward, diversity, and of shapes the volume, at the "samples" events."""
    rows, marks = run.samples or (), _steps_of(run.alarms)
    rewards = [row["rewards"] for row in rows if isinstance(row.get("rewards"), dict)]
    names = dict.fromkeys(name for entry in rewards for name in entry)
    charts = [_draw_reward(name, rows, run, marks) for name in names]
    for name, title in (("diversity", "Diversity of the samples"), ("volume", "Volume of the samples, share of cells")):
        points = [(float(row["step"]), finite(row.get(name))) for row in rows]
        if any(not math.isnan(value) for _, value in points):
            svg = draw_chart([Line(points, 1, "dots")], label=_describe(name, points), marks=marks)
            charts.append(Chart(title, svg, (), ""))
    return [chart for chart in charts if chart is not None]


def _steps_of(events: Sequence[Mapping[str, Any]] | None) -> list[float]:
    return sorted({float(row["step"]) for row in events or ()})


def _draw_plan(plan: _Plan, rows: Sequence[Mapping[str, Any]], marks: Sequence[float]) -> Chart | None:
    faint, lines, keys, seen, raw = [], [], [], [], []
    window = 1
    for label, source, colour, shape in plan.series:
        read = source if callable(source) else lambda row, name=source: finite(row.get(name))
        points = [(float(row["step"]), read(row)) for row in rows]
        present = sum(not math.isnan(value) for _, value in points)
        if not present:
            continue
        if present >= _SMOOTH_FROM:
            window = max(window, min(present // 15, 100))
            if shape == "line":
                faint.append(Line(points, colour, "faint"))
            raw += [value for _, value in points if not math.isnan(value)]
            points = running_mean(points, window)
        lines.append(Line(points, colour, shape))
        keys.append(Key(label, colour, shape))
        seen.append(_describe(label, points))
    if not lines:
        return None
    svg = draw_chart([*faint, *lines], label="; ".join(seen), marks=marks, flat=plan.flat)
    smooth = f"mean over {window} logged steps" if faint else "every logged step"
    if faint:
        ends = (
            f" ({plain(min(raw), 3)} to {plain(max(raw), 3)})"
            if len(plan.series) == 1
            else " (policy)" * (len(lines) > 2)
        )
        smooth += f"; faint: single steps{ends}"
    return Chart(
        plan.title, svg, tuple(keys) if len(plan.series) > 1 else (), "; ".join(filter(None, (smooth, plan.note)))
    )


def _draw_reward(name: str, rows: Sequence[Mapping[str, Any]], run: RunReport, marks: Sequence[float]) -> Chart | None:
    entry = ((run.summary or {}).get("rewards") or {}).get(name) or {}
    scale = reward_scale(entry) if isinstance(entry, dict) else None
    factor = 100.0 if scale and scale.percent else 1.0
    points, bars, counts = [], [], []
    for row in rows:
        rewards = row.get("rewards")
        figures = rewards.get(name) if isinstance(rewards, dict) else None
        if not isinstance(figures, dict) or math.isnan(mean := finite(figures.get("mean"))):
            continue
        number, spread = finite(figures.get("count")), finite(figures.get("spread"))
        points.append((float(row["step"]), factor * mean))
        bars.append(factor * 2 * spread / math.sqrt(number) if number > 0 and spread >= 0 else 0.0)
        counts.append(number)
    if not points:
        return None
    svg = draw_chart([Line(points, 1, "dots", tuple(bars))], label=_describe(name, points), marks=marks)
    note = "bars: 2 standard errors" if any(bars) else ""
    if len(set(counts)) == 1 and counts[0] > 0:
        note = f"{counts[0]:.0f} samples each" + (f"; {note}" if note else "")
    return Chart(f"Held-out {name}" + (", %" if factor == 100.0 else ""), svg, (), note)


def _describe(label: str, points: Sequence[tuple[float, float]]) -> str:
    values = [value for _, value in points if not math.isnan(value)]
    return f"{label} from {plain(values[0])} to {plain(values[-1])}"
