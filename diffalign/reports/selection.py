"""Which prompts the before/after grid shows: wins and losses alike, chosen by rule and never by eye."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.reports.numbers import finite, plural

SEED = 0  # of the random draws, so that a rebuilt page shows the same prompts
_EACH = 6  # cards of wins, and of losses
_FEW = 6  # with fewer cards than this, unchanged prompts fill up


@dataclass(frozen=True)
class Choice:
    """One block of the grid: its heading, the rule it was chosen by, and the rows of records.jsonl."""

    kind: str  # "wins", "losses", "unchanged" or "unscored"
    heading: str
    rule: str
    rows: tuple[Mapping[str, Any], ...]


def choose_examples(records: Sequence[Mapping[str, Any]], reward: str | None) -> list[Choice]:
    """The largest wins and losses of one reward; a random draw among them where scores are only 0 or 1."""
    pools: dict[str, list[tuple[float, Mapping[str, Any]]]] = {
        "wins": [],
        "losses": [],
        "unchanged": [],
        "unscored": [],
    }
    scores = []
    for row in records:
        base, aligned = score_pair(row, reward)
        change = aligned - base
        kind = "unscored" if math.isnan(change) else "wins" if change > 0 else "losses" if change < 0 else "unchanged"
        pools[kind].append((change, row))
        scores += [base, aligned]
    asked = [row["prompt"] for row in records if isinstance(row.get("prompt"), str)]
    noun = "prompt" if len(set(asked)) == len(asked) else "picture"
    binary = {score for score in scores if not math.isnan(score)} <= {0.0, 1.0}
    chosen = [_extremes(kind, pools[kind], binary, noun) for kind in ("wins", "losses")]
    for kind, label in (("unchanged", "Unchanged"), ("unscored", "Not scored")):
        wanted = _FEW - sum(len(choice.rows) for choice in chosen)
        if wanted > 0 and pools[kind]:
            rows = _draw(pools[kind], wanted)
            chosen.append(
                Choice(kind, _heading(label, len(rows), len(pools[kind]), noun), _drawn(rows, pools[kind]), rows)
            )
    return chosen


def score_pair(row: Mapping[str, Any], reward: str | None) -> tuple[float, float]:
    """Score of the base and of the aligned picture; NaN where unscored."""
    rewards = row.get("rewards")
    pair = rewards.get(reward) if isinstance(rewards, dict) else None
    if not isinstance(pair, list) or len(pair) != 2:
        return math.nan, math.nan
    return finite(pair[0]), finite(pair[1])


def _extremes(kind: str, pool: list[tuple[float, Mapping[str, Any]]], binary: bool, noun: str) -> Choice:
    label = kind.capitalize()
    if binary:
        rows = _draw(pool, _EACH)
        rule = _drawn(rows, pool)
    else:
        order = random.Random(SEED).sample(pool, len(pool))  # equal changes come in random order
        order.sort(key=lambda item: -abs(item[0]))
        rows = tuple(row for _, row in order[:_EACH])
        rule = f"the largest of {len(pool)}" if len(pool) > len(rows) else "all shown, largest first" if rows else ""
    return Choice(kind, _heading(label, len(rows), len(pool), noun), rule, rows)


def _draw(pool: list[tuple[float, Mapping[str, Any]]], number: int) -> tuple[Mapping[str, Any], ...]:
    drawn = random.Random(SEED).sample(pool, min(number, len(pool)))
    return tuple(row for _, row in drawn)


def _drawn(rows: Sequence[Any], pool: Sequence[Any]) -> str:
    if not rows or len(rows) == len(pool):
        return "all shown" if rows else ""
    return f"drawn at random from {len(pool)}, seed {SEED}"


def _heading(label: str, shown: int, total: int, noun: str) -> str:
    if total == 0:
        return f"{label}: none"
    if shown == total:
        return f"{label}: {plural(total, noun)}"
    return f"{label}: {shown} of {plural(total, noun)}"
