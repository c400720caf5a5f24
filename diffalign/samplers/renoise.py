"""Inversion: from a clean sample to the noisy one from which a sampler would have drawn it (ReNoise, Garibi et al. 2024).

A sampler's step from u down to s asks the network at u, which an inversion does not know yet. Plain DDIM inversion asks it
at the sample of s instead; each ReNoise pass asks again at what the pass before found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser, NoiseDraw, Process, add_noise
from diffalign.exceptions import ConfigError
from diffalign.samplers.renoise_route import Route, Snap, route_along, route_to
from diffalign.samplers.renoise_step import (
    EARLY,
    Ask,
    InverseStep,
    Optimal,
    ReNoise,
    Window,
    corrected_noise,
    inverse_step,
)
from diffalign.samplers.step import Sampler, Time, noise_like, time_of_each
from diffalign.types import Condition


@dataclass(frozen=True)
class Inversion:
    """Where an inversion ended.

    Attributes:
        x_t: [batch, *sample], at least float32.
        level: the process time that each sample is at.
        route: how it came there.
        noise: what the stochastic sampler is to add at each of the route's steps; empty for a deterministic one.
    """

    x_t: Float[Tensor, "batch *sample"]
    level: Float[Tensor, " batch"]
    route: Route
    noise: tuple[Float[Tensor, "batch *sample"], ...] = ()


def invert(
    denoiser: Denoiser,
    x0: Float[Tensor, "batch *sample"],
    condition: Condition,
    t: Time,
    *,
    steps: int = 9,
    snap: Snap = "exact",
    renoise: ReNoise = ReNoise(),  # noqa: B008  frozen
    generators: Sequence[torch.Generator] | None = None,
    max_batch: int | None = None,
    every_row: bool = False,
) -> Inversion:
    """Noise clean samples by inverting the sampler, each to its own t. Records no gradient.

    For linear flows this inverts the Euler method, of which DDIM's step is one.

    Args:
        denoiser: any process and prediction type; SmPO and ReNoise take the conditional prediction alone.
        x0: clean samples or latents.
        condition: leaves [batch, ...].
        t: process times in (0, 1].
        steps: of the grid over all of [0, 1]; a sample takes those below its t.
        snap: which level is the last, see `route_to`.
        renoise: how each step is inverted.
        generators: one per sample, for regularisers and stochastic samplers; a result then does not depend on its batch.
        max_batch: samples per network call; None: all at once.
        every_row: ask the network about samples that have arrived too, so that processes which hold pieces of one network
            call it equally often.

    Raises:
        ConfigError: steps do not fit the process, or randomness is needed and there are no generators.
        ShapeError: a regulariser does not fit the samples.
    """
    route = route_to(denoiser.process, time_of_each(t, x0), steps, snap)
    return _climb(denoiser, x0, condition, route, renoise, generators, max_batch, every_row)


def invert_along(
    denoiser: Denoiser,
    x0: Float[Tensor, "batch *sample"],
    condition: Condition,
    times: Float[Tensor, " times"],
    *,
    renoise: ReNoise = ReNoise(),  # noqa: B008  frozen
    generators: Sequence[torch.Generator] | None = None,
    max_batch: int | None = None,
) -> Inversion:
    """Invert a sampler along its own times, as `sample` takes them: from the smallest, where x0 is, to the largest.

    The arguments and errors are those of `invert`.
    """
    route = route_along(times.to(x0.device), len(x0))
    return _climb(denoiser, x0, condition, route, renoise, generators, max_batch, every_row=False)


@torch.no_grad()
def retrace(
    denoiser: Denoiser, sampler: Sampler, condition: Condition, inversion: Inversion
) -> Float[Tensor, "batch *sample"]:
    """Sample back along the route of an inversion: what is left of the clean samples.

    Args:
        denoiser: the inverted one, or another, for edits.
        sampler: `DDIM` with the inversion's eta, or `FlowEuler`.
        condition: leaves [batch, ...].
        inversion: of `invert` or `invert_along`.
    """
    x = inversion.x_t.clone()
    for number, (start, end, _) in reversed(list(enumerate(inversion.route))):
        rows = (end > start).nonzero().flatten()
        if not len(rows):
            continue
        step = sampler.step(denoiser, x[rows], end[rows], start[rows], condition[rows])
        x[rows] = step.mean + step.std * inversion.noise[number][rows] if inversion.noise else step.mean
    return x


def inverted_noise(
    x_t: Float[Tensor, "*batch_and_sample"],
    x0: Float[Tensor, "*batch_and_sample"],
    process: Process,
    t: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch_and_sample"]:
    """The noise that makes x_t of x0 at t: (x_t - alpha x0) / sigma, in at least float32; 0 where sigma is 0."""
    shape = t.shape + (1,) * (x0.ndim - t.ndim)
    alpha, sigma = process.alpha(t).reshape(shape), process.sigma(t).reshape(shape)
    noise = (x_t - alpha * x0) / sigma
    return torch.where(sigma > 0, noise, torch.zeros_like(noise))


@torch.no_grad()
def inverted_draw(
    denoiser: Denoiser,
    x0: Float[Tensor, "groups members *sample"],
    condition: Condition,
    t: Float[Tensor, "groups members"],
    *,
    steps: int = 9,
    snap: Snap = "exact",
    renoise: ReNoise = ReNoise(),  # noqa: B008  frozen
    generators: Sequence[torch.Generator] | None = None,
    max_batch: int | None = None,
    every_row: bool = False,
) -> NoiseDraw:
    """A draw whose x_t is the inversion of x0: SmPO's. With `floor` and `ceil` the network is told t all the same.

    Args:
        denoiser: the policy.
        x0: clean latents.
        condition: leaves [groups, ...]; repeated for the members of a group.
        t: process time of every member, in (0, 1].

    The others, and the errors, are those of `invert`; generators are one per member, group by group.

    Source: Lu et al. 2025, "Smoothed Preference Optimization via ReNoise Inversion"; JaydenLyh/SmPO, train.py.
    """
    rows = condition.expand(x0.shape[1])
    found = invert(
        denoiser, x0.flatten(0, 1), rows, t.flatten(), steps=steps, snap=snap, renoise=renoise,
        generators=generators, max_batch=max_batch, every_row=every_row,
    )  # fmt: skip
    return NoiseDraw(t, inverted_noise(found.x_t.reshape(x0.shape), x0, denoiser.process, t))


@torch.no_grad()
def _climb(
    denoiser: Denoiser,
    x0: Tensor,
    condition: Condition,
    route: Route,
    renoise: ReNoise,
    generators: Sequence[torch.Generator] | None,
    max_batch: int | None,
    every_row: bool,
) -> Inversion:
    x0 = x0.to(torch.promote_types(x0.dtype, torch.float32))
    x, forward, noise = x0.clone(), None, []
    if renoise.regularise is not None or renoise.eta:
        if generators is None or len(generators) != len(x0):
            given = "none" if generators is None else len(generators)
            raise ConfigError(f"generators: regularise and eta need one per sample ({len(x0)}), got {given}")
        if renoise.regularise is not None:
            forward = noise_like(x0, generators)
    ask = Ask(denoiser, condition, max_batch)
    for start, end, told in route:
        added = noise_like(x0, generators) if renoise.eta and generators is not None else None
        moves = end > start
        rows = torch.arange(len(x0), device=x0.device) if every_row else moves.nonzero().flatten()
        for part, passes, window in _parts(rows, told, renoise):
            step = InverseStep(denoiser, x[part], start[part], end[part], renoise.eta)
            if added is not None:
                step.take_away(added[part])
            optimal = None
            if renoise.regularise is not None and forward is not None and generators is not None:
                noised = add_noise(denoiser.process, x0[part], forward[part], end[part])
                output = ask.rows(part)(noised, told[part])
                optimal = Optimal(
                    step.noise_of(output, noised), renoise.regularise, [generators[row] for row in part.tolist()]
                )
            found = inverse_step(step, ask.rows(part), told[part], passes, window, optimal)
            if added is not None and renoise.correct_noise:
                added[part] = corrected_noise(
                    added[part], found, x[part], start[part], end[part], ask.rows(part), renoise.eta
                )
            x[part] = torch.where(moves[part].reshape(-1, *(1,) * (x.ndim - 1)), found, x[part])
        if added is not None:
            noise.append(added)
    return Inversion(x, route.levels[-1], route, tuple(noise))


def _parts(rows: Tensor, told: Tensor, renoise: ReNoise) -> Iterator[tuple[Tensor, int, Window]]:
    """The rows that have passes and a window in common."""
    average = renoise.average
    early = told[rows] < EARLY
    late_rule = (renoise.passes, None if average is None else average.late)
    early_rule = late_rule
    if average is not None:
        most = renoise.passes if average.early_passes is None else min(average.early_passes, renoise.passes)
        early_rule = (most, average.early)
    kinds = [(rows, *late_rule)]
    if early_rule != late_rule:
        kinds = [(rows[early], *early_rule), (rows[~early], *late_rule)]
    yield from (kind for kind in kinds if len(kind[0]))
