"""Judged pictures to records: pairs, groups, labelled samples, experts. Nobody wins a tie, nor by the order of files."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from diffalign.data.judged import Judged, VotedPair
from diffalign.exceptions import ConfigError

Row = dict[str, Any]
Namer = Callable[[Judged], str]  # how the output names a picture
_EXPERTS = 500  # Diffusion-DRO's


def soft_preference(gap: float, low: float, high: float) -> float:
    """Probability that the better one wins: a softmax over two rewards, `low` counting as 0 and `high` as 1.

    Args:
        gap: by how much it is better, above 0.
        low, high: rewards.

    Source: Lu et al. 2025, "Smoothed Preference Optimization via ReNoise Inversion for Aligning Diffusion Models with
    Varied Human Preferences"; as `diffalign.objectives.smpo.smoothed_preference`.
    """
    return 1 / (1 + math.exp(-gap / (high - low)))


def pairs_by_value(
    group: Sequence[tuple[Judged, float]],
    name: Namer,
    dropped: Counter[str],
    *,
    every: bool,
    margin: float,
    smooth: tuple[float, float] | None,
    seed: int,
) -> Iterator[Row]:
    """Pairs of one prompt's scored pictures: the best with the worst, or all of them."""
    if len(group) < 2:
        dropped["prompts with fewer than two scored pictures"] += 1
        return
    chosen = combinations(group, 2) if every else [_best_and_worst(group, seed)]
    for first, second in chosen:
        (winner, most), (loser, least) = (first, second) if first[1] > second[1] else (second, first)
        gap = most - least
        if gap == 0:
            dropped["ties"] += 1
        elif gap < margin:
            dropped["below the margin"] += 1
        else:
            soft = {} if smooth is None else {"preference": soft_preference(gap, *smooth)}
            yield _pair(winner, loser, name) | soft | {"reward_chosen": most, "reward_rejected": least}


def _best_and_worst(group: Sequence[tuple[Judged, float]], seed: int) -> list[tuple[Judged, float]]:
    """Of several equally good ones, or bad ones, one is drawn."""
    draw = random.Random(f"{seed} {group[0][0].prompt}")
    values = [value for _, value in group]
    return [draw.choice([each for each in group if each[1] == end]) for end in (max(values), min(values))]


def pairs_by_order(
    group: Sequence[Judged],
    better: Callable[[Sequence[float], Sequence[float]], bool],
    name: Namer,
    dropped: Counter[str],
) -> Iterator[Row]:
    """All pairs of one prompt's pictures of which one is better in a partial order."""
    if len(group) < 2:
        dropped["prompts with fewer than two scored pictures"] += 1
    for first, second in combinations(group, 2):
        if better(first.scores, second.scores):
            yield _pair(first, second, name)
        elif better(second.scores, first.scores):
            yield _pair(second, first, name)
        else:
            dropped["ties" if first.scores == second.scores else "pairs that rewards disagree on"] += 1


def pairs_by_votes(
    compared: Sequence[VotedPair], name: Namer, dropped: Counter[str], *, margin: float
) -> Iterator[Row]:
    """Pairs that people compared, what most prefer as chosen; with the votes, whose share is a soft preference."""
    for each in compared:
        said = each.a + each.b + each.tie
        if said + each.bad == 0:
            dropped["skipped"] += 1
        elif each.bad >= said:
            dropped["both bad"] += 1
        elif each.a == each.b:
            dropped["ties"] += 1
        elif abs(each.a - each.b) / said < margin:
            dropped["below the margin"] += 1
        else:
            winner, loser = (each.first, each.second) if each.a > each.b else (each.second, each.first)
            votes = {"a": max(each.a, each.b), "b": min(each.a, each.b), "tie": each.tie}
            yield _pair(winner, loser, name) | {"votes": votes}


def shares_won(compared: Sequence[VotedPair]) -> dict[str, float]:
    """Picture id -> the mean share of votes that it won in its comparisons; a tie counts half, both-bad as lost by both."""
    shares: dict[str, list[float]] = {}
    for each in compared:
        said = each.a + each.b + each.tie + each.bad
        for picture, won in ((each.first, each.a), (each.second, each.b)):
            if said:
                shares.setdefault(picture.id, []).append((won + each.tie / 2) / said)
    return {name: math.fsum(won) / len(won) for name, won in shares.items()}


def group_row(
    number: int, group: Sequence[tuple[Judged, float]], name: Namer, dropped: Counter[str], notes: Counter[str]
) -> Iterator[Row]:
    """All pictures of one prompt with their rewards, null where unscored."""
    rewards = [None if math.isnan(value) else value for _, value in group]
    scored = [value for value in rewards if value is not None]
    if len(scored) < 2:
        dropped["prompts with fewer than two scored pictures"] += 1
        return
    if len(set(scored)) == 1:
        notes["groups with equal rewards"] += 1
    row: Row = {"id": f"{number:06d}", "prompt": group[0][0].prompt, "items": [name(each) for each, _ in group]}
    yield row | {"rewards": rewards, "sources": [each.source for each, _ in group]}


def cuts(
    values: Sequence[float], *, good: float | None, bad: float | None, share: float | None
) -> tuple[Callable[[float], bool], Callable[[float], bool]]:
    """Which values are good, and which are bad.

    Args:
        values: of all pictures.
        good, bad: from which value on a picture is good, and down from which it is bad; None: none is.
        share: in their place, this share of the pictures is good, the best, and as many are bad; of equal values on both
            sides of a cut none is labelled.

    Raises:
        ConfigError: they do not fit together.
    """
    if share is not None:
        if good is not None or bad is not None or not 0 < share <= 0.5:
            raise ConfigError(f"--share: must be above 0 and at most 0.5, without --good and --bad, got {share}")
        falling = sorted(values, reverse=True)
        count = int(round(share * len(falling), 9))  # 0.29 of 100 is 28.999999999999996 in floating point
        if count == 0:
            raise ConfigError(
                f"--share: {share} of {len(falling)} scored pictures is less than one; give a larger share"
            )
        low, high = falling[-count], falling[count - 1]
        whole_top = falling[count] < high  # count < len, as share is at most a half and there are two or more
        whole_end = falling[-count - 1] > low
        return (
            lambda value: value > high or (value == high and whole_top),
            lambda value: value < low or (value == low and whole_end),
        )
    if good is None and bad is None:
        raise ConfigError("say what is good and what bad: --good 0.8 --bad 0.3, or --share 0.25")
    if good is not None and bad is not None and bad >= good:
        raise ConfigError(f"--bad: must be below --good ({good}), got {bad}")
    return (lambda value: good is not None and value >= good, lambda value: bad is not None and value <= bad)


def labelled_rows(
    judged: Sequence[tuple[Judged, float]],
    is_good: Callable[[float], bool],
    is_bad: Callable[[float], bool],
    name: Namer,
    dropped: Counter[str],
    notes: Counter[str],
) -> Iterator[Row]:
    """One record a picture that is good or bad."""
    for picture, value in judged:
        label = "good" if is_good(value) else "bad" if is_bad(value) else None
        if label is None:
            dropped["neither good nor bad"] += 1
        else:
            notes[label] += 1
            yield _single(picture, value, label, name)


def expert_rows(
    judged: Sequence[tuple[Judged, float]], top: int | None, name: Namer, dropped: Counter[str], seed: int
) -> Iterator[Row]:
    """The `top` pictures of all prompts (None: 500), as good ones; which of several equal ones come in last is drawn.

    Source: "Ranking-based Preference Optimization for Diffusion Models from Implicit User Feedback" (Diffusion-DRO), whose
    experts are the 500 best of Pick-a-Pic.
    """
    asked, top = top, _EXPERTS if top is None else top
    if top >= len(judged):
        got = f"the default is {top}; give --top N" if asked is None else f"got {top}"
        raise ConfigError(f"--top: must be below the {len(judged)} scored pictures, of which it takes the best; {got}")
    drawn = list(judged)
    random.Random(f"{seed}").shuffle(drawn)
    best = {picture.id for picture, _ in sorted(drawn, key=lambda each: -each[1])[:top]}
    dropped["below the top"] += len(judged) - top
    for picture, value in judged:
        if picture.id in best:
            yield _single(picture, value, "good", name)


def _single(picture: Judged, value: float, label: str, name: Namer) -> Row:
    row = {"id": picture.id, "prompt": picture.prompt, "item": name(picture), "label": label, "reward": value}
    return row | ({} if picture.source is None else {"source": picture.source})


def _pair(winner: Judged, loser: Judged, name: Namer) -> Row:
    row = {
        "id": f"{winner.id}-over-{loser.id}",
        "prompt": winner.prompt,
        "chosen": name(winner),
        "rejected": name(loser),
    }
    sources: Mapping[str, str | None] = {"source_chosen": winner.source, "source_rejected": loser.source}
    return row | {key: value for key, value in sources.items() if value is not None}
