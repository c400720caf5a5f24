"""Noise in a window of steps alone: MixGRPO's sliding window and Flow-GRPO-Fast's."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser
from diffalign.exceptions import ConfigError, ShapeError
from diffalign.samplers.step import Sampler, Step, Time, time_of_each
from diffalign.types import Condition

WindowSchedule = Literal["progressive", "random", "decay", "exp_decay"]


@dataclass(frozen=True)
class Windowed:
    """`inside` makes the steps that start at low < t <= high, `outside` all others.

    Attributes:
        inside: the one with noise (FlowSDE); only its steps can be scored again.
        outside: the one without (FlowEuler; DPMSolverPP, whose history starts anew after the window).
        high, low: process times.

    Source: Li et al. 2025, "MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE".
    """

    inside: Sampler
    outside: Sampler
    high: float
    low: float

    @classmethod
    def of_steps(
        cls, inside: Sampler, outside: Sampler, times: Float[Tensor, " states"], first: int, length: int
    ) -> Windowed:
        """With noise in `length` steps from number `first` on, 0 being the one from noise.

        Raises:
            ConfigError: there are no such steps.
        """
        return cls(inside, outside, *window_times(times, first, length))

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "batch *sample"],
        t: Time,
        t_next: Time,
        condition: Condition,
        state: Any = None,
    ) -> Step:
        """One step.

        Raises:
            ShapeError: some samples are in the window and some are not.
        """
        t = time_of_each(t, x_t)
        within = (t <= self.high) & (t > self.low)
        if bool(within.all()):
            return self.inside.step(denoiser, x_t, t, t_next, condition)
        if bool(within.any()):
            raise ShapeError(
                f"a step at times from {t.min().item():g} to {t.max().item():g} lies on both sides of the window from "
                f"{self.high:g} to {self.low:g}; give all samples of a step one time"
            )
        return self.outside.step(denoiser, x_t, t, t_next, condition, state)


def window_times(times: Float[Tensor, " states"], first: int, length: int) -> tuple[float, float]:
    """`high` and `low` of a window of steps: halfway to the times next to it, so that rounding moves no step.

    Args:
        times: descending, one more than there are steps.
        first: number of the window's first step.
        length: how many steps (>= 1).

    Raises:
        ConfigError: there are no such steps.
    """
    steps = len(times) - 1
    if first < 0 or length < 1 or first + length > steps:
        raise ConfigError(f"a window of {length} steps from number {first} on does not lie within {steps} steps")
    at = [float(time) for time in times]
    high = math.inf if first == 0 else (at[first - 1] + at[first]) / 2
    return high, (at[first + length - 1] + at[first + length]) / 2


def window_first(
    round_number: int,
    *,
    schedule: WindowSchedule,
    steps: int,
    length: int,
    every: int,
    shift: int = 1,
    fewest: int = 1,
    decay: float = 0.1,
    free: int = 13,
    roll_back: bool = True,
    seed: int = 0,
) -> int:
    """The first step of MixGRPO's window in a round of training.

    The window goes from the first step to the last place that holds it whole, `shift` steps at a time, and then back to
    the first ("random": to anywhere, each round). At first step p it stays for

        progressive   every rounds
        decay         max(fewest, floor(every (1 - p / steps) + fewest p / steps))
        exp_decay     ceil(every exp(-decay max(0, p - free)))

    Args:
        round_number: from 0.
        steps: that the window moves in; MixGRPO leaves out the trajectory's last two.
        length: of the window, in steps. 4 of 25 in MixGRPO; 2 or 3 in the first half of 10 in Flow-GRPO-Fast.
        every: rounds at a place. 25 in MixGRPO, 20 in its Flash, 10 with its decay.
        shift: steps at a time; 0 keeps the window where it is (Flash*).
        fewest: of "decay", rounds at the last places. decay, free: of "exp_decay".
        roll_back: False: it stays at the last place.
        seed: of "random", whose place depends on seed and round alone.

    Returns:
        in 0 .. steps - length.

    Raises:
        ConfigError: a number out of range.

    Source: MixGRPO's grpo_states.py, whose window also runs past the last step, shortened, and for `every` rounds empty.
    """
    places = steps - length + 1
    if schedule not in get_args(WindowSchedule):
        raise ConfigError(f"schedule: must be one of {', '.join(get_args(WindowSchedule))}, got {schedule!r}")
    for name, value, least in (
        ("length", length, 1),
        ("every", every, 1),
        ("fewest", fewest, 1),
        ("shift", shift, 0),
        ("round_number", round_number, 0),
    ):
        if value < least:
            raise ConfigError(f"{name}: must be at least {least}, got {value}")
    if places < 1:
        raise ConfigError(f"length: must be at most the number of steps ({steps}), got {length}")
    if schedule == "random":
        return random.Random(f"{seed} {round_number}").randrange(places)
    stops = range(0, places, shift) if shift else range(1)

    def stay(place: int) -> int:
        if schedule == "decay":
            return max(fewest, int(every * (1 - place / steps) + fewest * place / steps))
        return math.ceil(every * math.exp(-decay * max(0, place - free))) if schedule == "exp_decay" else every

    ends = list(itertools.accumulate(stay(place) for place in stops))
    left = round_number % ends[-1] if roll_back else min(round_number, ends[-1] - 1)
    return next(place for place, end in zip(stops, ends, strict=True) if left < end)
