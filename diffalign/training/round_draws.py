"""What is drawn for a step on a round: pairs, times and noise for denoising errors, steps for trajectories.

A group's draws follow from the seed, the step, its name and the number of the draw, not from what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.config.time import ScheduleTime
from diffalign.data import seeded
from diffalign.denoising import NoiseDraw, SampleTime, StratifiedTime, draw_noise
from diffalign.exceptions import ConfigError
from diffalign.training.rounds import Chunk


def drawn_noise(
    config: RunConfig,
    chunk: Chunk,
    x0: Float[Tensor, "groups members *sample"],
    sample_time: SampleTime,
    times: Float[Tensor, " times"],
    places: Sequence[int],
    step: int,
    number: int,
) -> NoiseDraw:
    """Draw `number` of a step for the groups of a chunk.

    Args:
        times: of the sampler's schedule, for `time.sampling: schedule`.
        places: where the groups stand in the round, for stratified times.
    """
    training, samplers = config.training, sample_time
    strata = [sample_time.stratum(place) for place in places] if isinstance(sample_time, StratifiedTime) else None
    drawn = draw_noise(
        x0,
        samplers if strata is None else strata,
        generator=[seeded(config.seed, step, name, f"noise {number}") for name in chunk.names],
        share_noise=training.share_noise,
        share_time=training.share_time,
    )
    if not isinstance(config.time, ScheduleTime):
        return drawn
    return replace(drawn, t=_scheduled(config, config.time, chunk.names, x0.shape[1], times, step, number))


def _scheduled(
    config: RunConfig,
    settings: ScheduleTime,
    names: Sequence[str],
    members: int,
    times: Float[Tensor, " times"],
    step: int,
    number: int,
) -> Float[Tensor, "groups members"]:
    """Times of the schedule: each once in a step before one comes again."""
    listed = times[:-1].float().cpu()
    listed = listed[settings.skip_first : len(listed) - settings.skip_last]
    if not len(listed):
        raise ConfigError(
            f"time.skip_last: skips all {len(times) - 1} times of the sampler, with time.skip_first; take less, or more of "
            "online.sampler.steps"
        )
    rows = 1 if config.training.share_time else members
    drawn = []
    for name in names:
        generator = seeded(config.seed, step, name, "times")
        drawn.append(torch.stack([torch.randperm(len(listed), generator=generator) for _ in range(rows)]))
    return listed[torch.stack(drawn)[..., number % len(listed)]].expand(len(names), members)


def pair_draws(config: RunConfig, chunk: Chunk, step: int) -> list[torch.Generator]:
    """What draws each group's pair of this step among its equally good and its equally bad members."""
    return [seeded(config.seed, step, name, "pair") for name in chunk.names]


def trained_steps(config: RunConfig, chunk: Chunk, step: int) -> Int[Tensor, "steps groups"]:
    """Which stochastic steps of each group's trajectories are trained on, in which order."""
    online = config.online
    assert online is not None and chunk.trajectory is not None
    able = chunk.trajectory.stochastic.nonzero().flatten()
    able = able[: max(len(able) - online.skip_last, 0)]
    if not len(able):
        raise ConfigError(
            f"online.skip_last: leaves out all {int(chunk.trajectory.stochastic.sum())} steps that add noise, got "
            f"{online.skip_last}; take less, or more of online.sampler.steps"
        )
    wanted = min(online.trained_steps or len(able), len(able))
    drawn = [
        torch.randperm(len(able), generator=seeded(config.seed, step, name, "steps"))[:wanted] for name in chunk.names
    ]
    return able[torch.stack(drawn, 1)]
