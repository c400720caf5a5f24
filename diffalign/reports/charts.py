"""Line charts as inline SVG: they take the page's colours, light or dark, and need no drawing library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise

WIDTH, HEIGHT = 360, 210  # user units: about the width of a phone, so that type is not scaled down there
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 26
_MOST_POINTS = 500  # of one line; longer ones are thinned to least and greatest of each stretch

Points = Sequence[tuple[float, float]]  # (step, value); NaN values are gaps


@dataclass(frozen=True)
class Line:
    """One series.

    Args:
        colour: 1 or 2, a colour of the page.
        error: half-height of the bar at each point, for series of a few points.
        shape: "line", "dashed", "dots" (a few points, joined) or "faint" (raw values behind a running mean).
    """

    points: Points
    colour: int = 1
    shape: str = "line"
    error: Sequence[float] = ()


def running_mean(points: Points, window: int) -> list[tuple[float, float]]:
    """Mean over `window` values around each point, of fewer at both ends; NaN values are skipped."""
    points = [point for point in points if not math.isnan(point[1])]
    sums = [0.0, *accumulate(value for _, value in points)]
    means = []
    for index, (step, _) in enumerate(points):
        first, last = max(index - window // 2, 0), min(index + (window + 1) // 2, len(points))
        means.append((step, (sums[last] - sums[first]) / (last - first)))
    return means


def draw_chart(lines: Sequence[Line], *, label: str, marks: Iterable[float] = (), flat: float | None = None) -> str:
    """The SVG of one chart; `marks` are steps with an upright line, `flat` a value with a level one.

    Faint lines set the frame with their middle 90 % alone, in charts of one series; what lies outside is cut.
    """
    steps = [step for line in lines for step, value in line.points if not math.isnan(value)]
    x_low, x_high = _step_range(steps)
    y_low, y_high = _value_range(lines, flat)

    def x(step: float) -> float:
        return _LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = min(max((value - y_low) / (y_high - y_low), -0.5), 1.5)  # far outside is as good as outside
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    ticks = nice_ticks(y_low, y_high, 5)
    for tick, text in zip(ticks, _tick_texts(ticks)):
        at = y(tick)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    ticks = [tick for tick in nice_ticks(x_low, x_high, 5) if tick == round(tick)]
    for tick, text in zip(ticks, _tick_texts(ticks)):
        anchor = "end" if x(tick) > right - 12 else "middle"
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    if flat is not None:
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y(flat):.1f}" y2="{y(flat):.1f}"/>')
    for step in marks:
        if x_low <= step <= x_high:
            parts.append(f'<line class="mark" x1="{x(step):.1f}" x2="{x(step):.1f}" y1="{_TOP}" y2="{floor}"/>')
    kind = "open" if all(line.shape != "faint" for line in lines) else "plot" if len(lines) <= 4 else "plot crowded"
    # a nested svg cuts at its own frame: no id is needed, and ids must not repeat in one page
    frame = f'x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{floor - _TOP}"'
    parts.append(f'<svg {frame} viewBox="{_LEFT} {_TOP} {right - _LEFT} {floor - _TOP}" class="{kind}">')
    for line in lines:
        parts.append(_draw_line(line, x, y))
    parts.append("</svg></svg>")
    return "".join(parts)


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between low and high, at steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [index * size for index in range(first, math.floor(high / size + 1e-9) + 1)]


def _step_range(steps: Sequence[float]) -> tuple[float, float]:
    low, high = min(steps), max(steps)
    if low == high:
        return low - 1, high + 1
    return (0.0 if 0 < low < 0.1 * high else low), high


def _value_range(lines: Sequence[Line], flat: float | None) -> tuple[float, float]:
    values = [] if flat is None else [flat]
    for line in lines:
        seen = sorted(value for _, value in line.points if not math.isnan(value))
        if line.shape == "faint":
            cut = len(seen) // 20
            seen = seen[cut : len(seen) - cut] if len(lines) == 2 else []
        values += seen
        values += [value + sign * bar for (_, value), bar in zip(line.points, line.error) for sign in (-1, 1)]
    values = [value for value in values if math.isfinite(value)]
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
    else:
        room = (high - low) * 0.06
    return low - room, high + room


def _draw_line(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in _thin(line.points):
        if math.isnan(value):
            runs.append([])
        else:
            runs[-1].append((x(step), y(value)))
    drawn = []
    for run in runs:
        if len(run) == 1 and line.shape != "dots":
            drawn.append(
                f'<circle class="s{line.colour} {line.shape}" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="2"/>'
            )
        elif run:
            path = " ".join(f"{across:.1f},{down:.1f}" for across, down in run)
            drawn.append(f'<polyline class="s{line.colour} {line.shape}" points="{path}"/>')
    if line.shape == "dots":
        for (step, value), bar in zip(line.points, [*line.error, *[0.0] * len(line.points)]):
            if math.isnan(value):
                continue
            if bar > 0:
                ends = f'y1="{y(value - bar):.1f}" y2="{y(value + bar):.1f}"'
                drawn.append(f'<line class="s{line.colour} bar" x1="{x(step):.1f}" x2="{x(step):.1f}" {ends}/>')
            drawn.append(f'<circle class="s{line.colour} dot" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>')
    return "".join(drawn)


def _thin(points: Points) -> Points:
    """Least and greatest value of each stretch, in their order: what the eye would see of the whole line."""
    if len(points) <= _MOST_POINTS:
        return points
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = [point for point in points[start : start + stretch] if not math.isnan(point[1])]
        if part:
            kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return kept


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    """All to the same number of decimals; very small and very large ones with a power of ten."""
    size = min((abs(after - before) for before, after in pairwise(ticks)), default=1.0)
    greatest = max((abs(tick) for tick in ticks), default=0.0)
    if greatest >= 1e6 or 0 < greatest < 1e-3:
        texts = [f"{tick:.3g}" for tick in ticks]
    else:
        decimals = max(0, -math.floor(math.log10(size or 1) + 1e-9))
        texts = [f"{tick:.{decimals}f}" for tick in ticks]
    return [text.replace("-", "\u2212") for text in texts]
