"""Checks of rewards of whole sets: order, bad samples, and exchanges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from diffalign.rewards.protocol import Sample
from diffalign.rewards.selftest_checks import TestFailure
from diffalign.rewards.selftest_samples import MAKERS
from diffalign.rewards.set_protocol import SetReward

_SAMPLES = 8
_FEATURES = 16


def set_checks(
    reward: SetReward, samples: Sequence[Sample] | None, tolerance: float
) -> list[tuple[str, Callable[[], str]]]:
    """Names and checks: examples, range, determinism, order, call, bad samples, exchange, too few."""
    given = _examples(reward) if samples is None else list(samples)
    whole = reward.score_set(given).value

    def same(seen: float, wanted: float, what: str) -> str:
        limit = tolerance * max(1.0, abs(wanted))
        if not abs(seen - wanted) <= limit:
            raise TestFailure(f"{what}: {seen:.6g}, and the set as it was {wanted:.6g}")
        return "equal" if seen == wanted else f"differs by {abs(seen - wanted):.2g}"

    def examples() -> str:
        output = reward.score_set(given)
        if not math.isfinite(output.value) or output.counted < 2:
            why = next((reason for reason in output.reasons if reason), "no reason")
            raise TestFailure(f"{output.counted} of {len(given)} samples count, the value is {output.value}: {why}")
        return f"{output.value:.4g} of {output.counted} samples"

    def in_range() -> str:
        low, high = reward.spec.range
        if not low - tolerance <= whole <= high + tolerance:
            raise TestFailure(f"{whole:.4g}, and its spec says {low:g} to {high:g}")
        return f"{whole:.4g} in {low:g} to {high:g}"

    def determinism() -> str:
        if reward.score_set(given).value != whole:
            raise TestFailure("another value the second time")
        return "equal"

    def bad_sample() -> str:
        output = reward.score_set([replace(given[0], media=object()), *given])
        if output.reasons[0] is None or any(output.reasons[1:]):
            raise TestFailure("something that is no medium is not left out, or others are")
        return f"left out; {same(output.value, whole, 'without it')}"

    def exchange() -> str:
        rows, _ = reward.features(given)
        state = reward.swap(reward.start(rows[:-1]), 0, rows[-1])
        anew = reward.value(reward.start(torch.cat([rows[-1:], rows[1:-1]])))
        return same(reward.value(state), anew, "after an exchange")

    def too_few() -> str:
        if not math.isnan(reward.score_set([]).value):
            raise TestFailure("a set of nothing has a value")
        return "a set of nothing: NaN"

    return [
        ("examples", examples),
        ("range", in_range),
        ("determinism", determinism),
        ("order", lambda: same(reward.score_set(given[::-1]).value, whole, "in another order")),
        ("call", lambda: same(float(reward([sample.media for sample in given])), whole, "reward(media)")),
        ("bad sample", bad_sample),
        ("exchange", exchange),
        ("too few", too_few),
    ]


def _examples(reward: SetReward) -> list[Sample]:
    def make(seed: int) -> object:
        if reward.spec.media in MAKERS:
            return MAKERS[reward.spec.media](seed)
        return torch.randn(_FEATURES, generator=torch.Generator().manual_seed(seed))

    return [Sample(make(seed), id=str(seed)) for seed in range(_SAMPLES)]
