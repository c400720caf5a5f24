"""Base against aligned, from evaluation/summary.json: one row a reward, and the sentences that say what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffalign.reports.numbers import ABSENT, Scale, count, finite, plain, plural, scale_for

Verdict = Literal["rose", "fell", "unclear", "unknown"]
TRAINED_ON = "trained on"  # the config's word: evaluation.trained_reward; records do not say what made them
_BARE_UNITS = ("", "1")  # dimensionless
_SHARES = ("share", "fraction", "probability", "accuracy", "rate")


@dataclass(frozen=True)
class Row:
    """One line of the before/after table; numbers that are missing are NaN, or None for counts."""

    name: str
    note: str  # TRAINED_ON, the same with "not", or what the line is
    unit: str
    base: float
    aligned: float
    difference: float
    low: float
    high: float
    scale: Scale
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    win_rate: float = math.nan
    win_rate_low: float = math.nan
    win_rate_high: float = math.nan
    scored: int | None = None
    unscored: int = 0
    reasons: tuple[tuple[str, int | None], ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say; without an interval, unknown."""
        if any(math.isnan(number) for number in (self.low, self.high, self.difference)):
            return "unknown"
        return "rose" if self.low > 0 else "fell" if self.high < 0 else "unclear"

    @property
    def tally(self) -> str:
        """Wins / ties / losses."""
        counts = (self.wins, self.ties, self.losses)
        return "" if counts == (None, None, None) else " / ".join(ABSENT if n is None else str(n) for n in counts)

    @property
    def win_rate_text(self) -> str:
        """`52.5 %`, or nothing on lines without one."""
        return "" if math.isnan(self.win_rate) else f"{100 * self.win_rate:.1f} %"

    @property
    def win_rate_interval(self) -> str:
        """`48.7 to 56.2`, or nothing."""
        if math.isnan(self.win_rate_low) or math.isnan(self.win_rate_high):
            return ""
        return f"{100 * self.win_rate_low:.1f} to {100 * self.win_rate_high:.1f}"


def comparison_rows(summary: Mapping[str, Any]) -> list[Row]:
    """The rewards, the trained one first; then corrected score, diversity and geometry where the evaluation has them."""
    rewards = [
        (str(name), entry) for name, entry in _mapping(summary.get("rewards")).items() if isinstance(entry, dict)
    ]
    rows = [_reward_row(name, entry, summary) for name, entry in rewards]
    rows.sort(key=lambda row: row.note != TRAINED_ON)
    return [*rows, *_corrected_row(summary), *_diversity_row(summary), *_geometry_rows(summary)]


def reward_scale(entry: Mapping[str, Any]) -> Scale:
    """How this reward is written: a share between 0 and 1 in percent, anything else as it is."""
    limits = entry.get("range")
    unit = str(entry.get("unit") or "").lower()
    is_share = isinstance(limits, list) and [finite(limit) for limit in limits] == [0.0, 1.0]
    percent = is_share and (unit in _BARE_UNITS or any(word in unit for word in _SHARES))
    means = [finite(entry.get(key)) for key in ("base_mean", "aligned_mean")]
    return scale_for(percent, finite(entry.get("low")), finite(entry.get("high")), means)


def sentence(row: Row, *, prompts: int | None, confidence: str, pictures: int | None = None) -> str:
    """What happened to one reward, without gloss. `pictures`: how many each model drew, where it is not one a prompt."""
    several = pictures is not None and pictures != prompts
    if math.isnan(row.base) or math.isnan(row.aligned):
        base, aligned = row.scale.level(row.base), row.scale.level(row.aligned)
        return f"{row.name} could not be compared: base {base}, aligned {aligned}."
    verb = {"rose": "rose", "fell": "fell"}.get(row.verdict, "went")
    number = prompts if row.scored is None else row.scored
    where = "" if number is None else f" on {plural(number, 'held-out prompt')}"
    if pictures is not None and prompts is not None and several:
        drawn = pictures if row.scored is None else row.scored
        where = f" on {plural(drawn, 'picture')} of {plural(prompts, 'held-out prompt')}"
    interval = row.scale.interval(row.low, row.high)
    span = f", {confidence} interval {interval}" if interval else ", no interval"
    text = f"{row.name} {verb} from {row.scale.level(row.base)} to {row.scale.level(row.aligned)}{where}"
    text += f": {row.scale.change(row.difference)}{span}."
    if row.verdict == "unclear":
        text += " The interval includes zero: no clear change."
    if row.unscored:
        text += f" {plural(row.unscored, 'picture' if several else 'prompt')} could not be scored."
    return text


def confidence_text(summary: Mapping[str, Any]) -> str:
    """`95 %`; `confidence` where the level is not stated."""
    level = finite(summary.get("confidence"))
    return "confidence" if math.isnan(level) else f"{100 * level:g} %"


def how_measured(summary: Mapping[str, Any]) -> str:
    """One line under the table: prompts, seed, sampler, bootstrap, time."""
    sampler = _mapping(summary.get("sampler"))
    parts = []
    if (prompts := count(summary.get("prompts"))) is not None:
        pictures = count(summary.get("pictures"))
        several = f" ({pictures} pictures)" if pictures is not None and pictures != prompts else ""
        parts.append(f"{plural(prompts, 'prompt')}{several}, same starting noise for both models")
    if (seed := count(summary.get("seed"))) is not None:
        parts.append(f"seed {seed}")
    if sampler.get("name"):
        steps = count(sampler.get("steps"))
        parts.append(f"sampler {sampler['name']}" + (f" with {plural(steps, 'step')}" if steps is not None else ""))
    if not math.isnan(finite(summary.get("guidance_scale"))):
        parts.append(f"guidance scale {plain(summary['guidance_scale'])}")
    if (resamples := count(summary.get("resamples"))) is not None:
        rates = ", of win rates Wilson's" if "pictures" in summary else ""  # of older runs by bootstrap too
        parts.append(f"intervals over prompts, by paired bootstrap ({resamples:,} resamples){rates}")
    if not math.isnan(seconds := finite(summary.get("seconds"))):
        parts.append(f"took {seconds:.0f} s" if seconds < 600 else f"took {seconds / 60:.0f} min")
    return "; ".join(parts)


def unit_of_comparison(summary: Mapping[str, Any]) -> str:
    """`picture` where the models drew several of a prompt, else `prompt`: what was scored, won or lost."""
    pictures = count(summary.get("pictures"))
    return "prompt" if pictures is None or pictures == count(summary.get("prompts")) else "picture"


def tie_rule(rows: list[Row]) -> str:
    """How the win rate counts ties, where the numbers bear it out."""
    counts = [(row.wins, row.ties, row.losses, row.win_rate) for row in rows if not math.isnan(row.win_rate)]
    halves = [
        abs((wins + ties / 2) / (wins + ties + losses) - rate) < 1e-3
        for wins, ties, losses, rate in counts
        if ties and wins is not None and losses is not None
    ]
    return "a tie counts half a win" if halves and all(halves) else ""


def _reward_row(name: str, entry: Mapping[str, Any], summary: Mapping[str, Any]) -> Row:
    trained = entry.get("trained_on")
    if not isinstance(trained, bool):
        trained = summary.get("trained_reward") == name
    return Row(
        name=name,
        note=TRAINED_ON if trained else f"not {TRAINED_ON}",
        unit="" if entry.get("unit") in _BARE_UNITS else str(entry.get("unit") or ""),
        **_means(entry),
        scale=reward_scale(entry),
        wins=count(entry.get("wins")),
        ties=count(entry.get("ties")),
        losses=count(entry.get("losses")),
        win_rate=finite(entry.get("win_rate")),
        win_rate_low=finite(entry.get("win_rate_low")),
        win_rate_high=finite(entry.get("win_rate_high")),
        scored=count(entry.get("scored")),
        unscored=count(entry.get("unscored")) or 0,
        reasons=tuple((str(reason), count(number)) for reason, number in _mapping(entry.get("reasons")).items()),
    )


def _corrected_row(summary: Mapping[str, Any]) -> list[Row]:
    entry = summary.get("corrected")
    if not isinstance(entry, dict):
        return []
    source = f"r = {entry.get('reward', '?')}, quality term u = {entry.get('quality', '?')}"
    means = _means(entry)
    scale = scale_for(False, means["low"], means["high"], (means["base"], means["aligned"]))
    return [Row("corrected score", source, str(entry.get("formula") or ""), **means, scale=scale)]


def _diversity_row(summary: Mapping[str, Any]) -> list[Row]:
    entry = summary.get("diversity")
    if not isinstance(entry, dict):
        return []
    base, aligned = finite(entry.get("base")), finite(entry.get("aligned"))
    low, high = finite(entry.get("low")), finite(entry.get("high"))
    scale = scale_for(False, low, high, (base, aligned))
    return [Row("diversity", "", str(entry.get("measure") or ""), base, aligned, aligned - base, low, high, scale)]


def _means(entry: Mapping[str, Any]) -> dict[str, Any]:
    base, aligned = finite(entry.get("base_mean")), finite(entry.get("aligned_mean"))
    difference = finite(entry.get("difference"))
    return {
        "base": base,
        "aligned": aligned,
        "difference": aligned - base if math.isnan(difference) else difference,
        "low": finite(entry.get("low")),
        "high": finite(entry.get("high")),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _geometry_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Of shapes: how full and how whole they are, and how far they moved from those of the base model."""
    geometry = _mapping(summary.get("geometry"))
    rows = []
    for name, note in (("volume", "share of the grid that is filled"), ("pieces", "parts that share no face")):
        entry = _mapping(geometry.get(name))
        keys = ("base", "aligned", "difference", "low", "high")
        base, aligned, difference, low, high = (finite(entry.get(key)) for key in keys)
        if not math.isnan(aligned):
            scale = scale_for(name == "volume", low, high, [base, aligned])
            rows.append(Row(name, "", note, base, aligned, difference, low, high, scale))
    for name, same in (("chamfer", 0.0), ("f_score", 1.0), ("shared", 1.0)):
        aligned = finite(geometry.get(name))
        if not math.isnan(aligned):
            scale = scale_for(False, math.nan, math.nan, [same, aligned])
            note = f"to the base model's shape of the same prompt and seed ({same:g}: the same)"
            rows.append(Row(name, "", note, same, aligned, aligned - same, math.nan, math.nan, scale))
    return rows
