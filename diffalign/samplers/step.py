"""One step of a sampler, and the loop over steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser
from diffalign.types import Condition


@dataclass(frozen=True)
class Step:
    """What a sampler says about the state at t_next, given the state at t.

    Attributes:
        mean: [batch, *sample].
        std: [batch, 1, ...]; 0 where the step is deterministic.
        x0: the clean sample that the network's output means.
        prediction: the network's raw output.
        density: "gaussian" with this mean and std, or "unnormalised".
        state: history of a multistep sampler, or None.
    """

    mean: Float[Tensor, "batch *sample"]
    std: Tensor
    x0: Float[Tensor, "batch *sample"]
    prediction: Float[Tensor, "batch *sample"]
    density: Literal["gaussian", "unnormalised"] = "gaussian"
    state: Any = None


Time = Float[Tensor, " batch"] | Float[Tensor, ""] | float


def time_of_each(t: Tensor | float, x_t: Tensor) -> Tensor:
    """A process time [batch] on x_t's device; one time is every sample's."""
    if not isinstance(t, Tensor):
        t = torch.tensor(t, dtype=torch.promote_types(x_t.dtype, torch.float32))
    return t.to(x_t.device).expand(len(x_t))


@runtime_checkable
class Sampler(Protocol):
    """Goes from t to t_next < t. `t` and `t_next` are process times, [batch] or one for all samples."""

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "batch *sample"],
        t: Time,
        t_next: Time,
        condition: Condition,
        state: Any = None,
    ) -> Step: ...


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    condition: Condition,
    x_init: Float[Tensor, "batch *sample"],
    times: Float[Tensor, " times"],
    *,
    generators: Sequence[torch.Generator] | None = None,
) -> Float[Tensor, "batch *sample"]:
    """Run a sampler from x_init at times[0] to times[-1].

    Args:
        denoiser: any denoiser; guidance is one that wraps another.
        sampler: what a step does.
        condition: leaves [batch, ...].
        x_init: unit Gaussian noise times sigma(times[0]), at least float32.
        times: process times, descending, one more than there are steps.
        generators: one per sample, for samplers that add noise: a picture then does not depend on its batch.

    Raises:
        ValueError: the sampler adds noise and there are no generators, or there is not one per sample.
    """
    if generators is not None and len(generators) != len(x_init):
        raise ValueError(f"{len(generators)} generators for {len(x_init)} samples: one each")
    x_t, state = x_init, None
    for now, after in itertools.pairwise(times):
        step = sampler.step(denoiser, x_t, now, after, condition, state)
        x_t, state = step.mean, step.state
        if bool((step.std > 0).any()):
            if generators is None:
                raise ValueError("this sampler adds noise: pass one generator per sample")
            x_t = x_t + step.std * noise_like(x_t, generators)
    return x_t


def noise_like(x: Float[Tensor, "rows *row"], generators: Sequence[torch.Generator]) -> Float[Tensor, "rows *row"]:
    """Unit noise, each row from a generator of its own; generators may live on the CPU whatever x's device."""
    rows = [torch.randn(x.shape[1:], generator=each, device=each.device, dtype=x.dtype) for each in generators]
    return torch.stack([row.to(x.device) for row in rows])
