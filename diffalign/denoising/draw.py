"""The randomness of a training step, drawn once and handed to every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising.time import SampleTime
from diffalign.exceptions import ShapeError


@dataclass(frozen=True)
class NoiseDraw:
    """Times and noise for one batch of groups.

    Attributes:
        t: process time of every member [groups, members], float32.
        noise: [groups, members, *sample], at least float32.
        network_time: the time told to the network where it is not t (GDPO-SR's unequal timestep), or None.
    """

    t: Float[Tensor, "groups members"]
    noise: Float[Tensor, "groups members *sample"]
    network_time: Float[Tensor, "groups members"] | None = None

    def to(self, device: torch.device | str) -> NoiseDraw:
        told = self.network_time
        return NoiseDraw(self.t.to(device), self.noise.to(device), None if told is None else told.to(device))


def draw_noise(
    x0: Float[Tensor, "groups members *sample"],
    sample_time: SampleTime | Sequence[SampleTime],
    *,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    share_noise: bool = True,
    share_time: bool = True,
) -> NoiseDraw:
    """Draw times and noise.

    Args:
        x0: gives shapes and device.
        sample_time: how times are drawn; a sequence gives one sampler per group (strata).
        generator: one for the batch, or one per group: then a group's draw depends on its own generator alone, not on
            what else is in the batch. Generators live on the CPU or on x0's device.
        share_noise: the members of a group get the same noise.
        share_time: the members of a group get the same time.

    Raises:
        ShapeError: generators or samplers do not match the number of groups.
    """
    if not isinstance(generator, Sequence) and not isinstance(sample_time, Sequence):
        return _draw(x0, sample_time, generator, share_noise, share_time)
    groups = len(x0)
    generators = generator if isinstance(generator, Sequence) else [generator] * groups
    samplers = sample_time if isinstance(sample_time, Sequence) else [sample_time] * groups
    if len(generators) != groups or len(samplers) != groups:
        raise ShapeError(f"{len(generators)} generators and {len(samplers)} time samplers for {groups} groups")
    draws = [
        _draw(x0[group : group + 1], samplers[group], generators[group], share_noise, share_time)
        for group in range(groups)
    ]
    return NoiseDraw(torch.cat([draw.t for draw in draws]), torch.cat([draw.noise for draw in draws]))


def _draw(
    x0: Tensor, sample_time: SampleTime, generator: torch.Generator | None, share_noise: bool, share_time: bool
) -> NoiseDraw:
    groups, members, *sample = x0.shape
    place = x0.device if generator is None else generator.device
    dtype = torch.promote_types(x0.dtype, torch.float32)
    t = sample_time((groups, 1 if share_time else members), generator=generator, device=place)
    noise = torch.randn(
        (groups, 1 if share_noise else members, *sample), generator=generator, device=place, dtype=dtype
    )
    return NoiseDraw(
        t.to(x0.device).expand(groups, members),
        noise.to(x0.device).expand(groups, members, *sample),
    )
