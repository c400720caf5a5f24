"""Base against aligned, from evaluation/summary.json: one row a reward, and the sentences that say what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffalign.reports.geometry import geometry_rows
from diffalign.reports.numbers import Scale, count, finite, plain, plural, scale_for
from diffalign.reports.row import TRAINED_ON, Row, mapping, means_of

_BARE_UNITS = ("", "1")  # dimensionless
_SHARES = ("share", "fraction", "probability", "accuracy", "rate")


def comparison_rows(summary: Mapping[str, Any]) -> list[Row]:
    """The rewards, the trained one first; then corrected score, diversity and geometry where the evaluation has them."""
    rewards = [(str(name), entry) for name, entry in mapping(summary.get("rewards")).items() if isinstance(entry, dict)]
    rows = [_reward_row(name, entry, summary) for name, entry in rewards]
    rows.sort(key=lambda row: row.note != TRAINED_ON)
    return [*rows, *_corrected_row(summary), *_diversity_row(summary), *geometry_rows(summary)]


def component_rows(summary: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """Of each reward that the run learnt from: its name, and a line for each of its components."""
    found = []
    for row in comparison_rows(summary):
        parts = mapping(mapping(mapping(summary.get("rewards")).get(row.name)).get("components"))
        lines = [_component_row(str(name), entry) for name, entry in parts.items() if isinstance(entry, dict)]
        if row.note == TRAINED_ON and lines:
            found.append((row.name, lines))
    return found


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
    if row.told:
        return row.told
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
    sampler = mapping(summary.get("sampler"))
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
        **means_of(entry),
        scale=reward_scale(entry),
        wins=count(entry.get("wins")),
        ties=count(entry.get("ties")),
        losses=count(entry.get("losses")),
        win_rate=finite(entry.get("win_rate")),
        win_rate_low=finite(entry.get("win_rate_low")),
        win_rate_high=finite(entry.get("win_rate_high")),
        scored=count(entry.get("scored")),
        unscored=count(entry.get("unscored")) or 0,
        reasons=tuple((str(reason), count(number)) for reason, number in mapping(entry.get("reasons")).items()),
    )


def _component_row(name: str, entry: Mapping[str, Any]) -> Row:
    means = means_of(entry)
    scale = scale_for(False, means["low"], means["high"], (means["base"], means["aligned"]))
    return Row(name, "", "", **means, scale=scale, scored=count(entry.get("scored")))


def _corrected_row(summary: Mapping[str, Any]) -> list[Row]:
    entry = summary.get("corrected")
    if not isinstance(entry, dict):
        return []
    source = f"r = {entry.get('reward', '?')}, quality term u = {entry.get('quality', '?')}"
    means = means_of(entry)
    scale = scale_for(False, means["low"], means["high"], (means["base"], means["aligned"]))
    return [Row("corrected score", source, str(entry.get("formula") or ""), **means, scale=scale)]


def _diversity_row(summary: Mapping[str, Any]) -> list[Row]:
    entry = summary.get("diversity")
    if not isinstance(entry, dict):
        return []
    base, aligned = finite(entry.get("base")), finite(entry.get("aligned"))
    low, high = finite(entry.get("low")), finite(entry.get("high"))
    scale = scale_for(False, low, high, (base, aligned))
    measure = str(entry.get("measure") or "")
    return [Row("diversity", "", measure, base, aligned, aligned - base, low, high, scale, is_form=True)]


def form_heading(rows: Sequence[Row]) -> str:
    """What stands above the lines that are no rewards; nothing where there are none."""
    names = [row.name for row in rows if row.is_form]
    return "" if not names else "diversity" if names == ["diversity"] else "form"
