"""ReNoise's regularisers, which pull a predicted noise towards the statistics of real noise: patch KL and autocorrelation.

Source: Garibi et al. 2024, "ReNoise: Real Image Inversion Through Iterative Noising", and src/renoise_inversion.py of
garibida/ReNoise-Inversion. Their code takes one sample at a time; here every sample of a batch is as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffalign.exceptions import ShapeError

_PATCH = 4  # along a side
_SMALLEST = 8  # the pyramid of averages ends at this side
_CLIP = 100.0  # of each element of the KL's gradient
_EPSILON = 1e-6


@dataclass(frozen=True)
class Regularise:
    """How much the predicted noise is regularised. The defaults are the authors', for latents of 64 by 64 and more.

    The autocorrelation's gradient grows as a plane shrinks: at 8 by 8 a step of 20 / 64 is what 20 is at 64 by 64, and 20
    may run away.

    Attributes:
        kl: step along the gradient of the patch KL; 0 leaves it out.
        autocorrelation: step along the gradient of the autocorrelation; 0 leaves it out.
        rounds: of one KL step and then `rolls` autocorrelation steps.
        rolls: random shifts in each round, each with 1 / rolls of the step.
    """

    kl: float = 0.065
    autocorrelation: float = 20.0
    rounds: int = 4
    rolls: int = 5


def regularise(
    noise: Float[Tensor, "batch *sample"],
    optimal: Float[Tensor, "batch *sample"],
    settings: Regularise,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "batch *sample"]:
    """Pull noise towards `optimal` in its patches' statistics, and its shifted products towards 0.

    Args:
        noise: predicted at the level that is to be reached.
        optimal: predicted for the clean sample with real noise at that level.
        settings: the sizes of the steps.
        generators: one per sample, for the shifts.

    Raises:
        ShapeError: samples are not [channels, height, width] with sides of at least 4.
    """
    if noise.ndim != 4 or min(noise.shape[-2:]) < _PATCH:
        raise ShapeError(
            f"regularise: samples must be [channels, height, width] with sides of at least {_PATCH}, "
            f"got {tuple(noise.shape[1:])}; leave the regulariser out"
        )
    for _ in range(settings.rounds):
        if settings.kl:
            noise = noise - settings.kl * _gradient(noise, lambda each: patch_kl(each, optimal)).clamp(-_CLIP, _CLIP)
        if settings.autocorrelation:
            for _ in range(settings.rolls):
                shifts = draw_shifts(noise, generators)
                slope = _gradient(noise, lambda each, by=shifts: autocorrelation(each, by))
                noise = noise - settings.autocorrelation * slope / settings.rolls
    return noise


def patch_kl(
    noise: Float[Tensor, "batch channels height width"], optimal: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Sum over 4x4 patches and channels of |log(v'/v) + (v + (m - m')^2) / v' - 1|: twice a KL of normal distributions.

    m and v are mean and unbiased variance of a patch of `noise`, m' and v' of `optimal`. Rows and columns beyond a whole
    number of patches are left out.
    """
    mean, variance = _of_patches(noise)
    wanted, spread = _of_patches(optimal)
    kl = (
        ((spread + _EPSILON) / (variance + _EPSILON)).log()
        + (variance + (mean - wanted) ** 2) / (spread + _EPSILON)
        - 1
    )
    return kl.abs().sum((1, 2, 3))


def autocorrelation(
    noise: Float[Tensor, "batch channels height width"], shifts: Int[Tensor, "batch channels scales"]
) -> Float[Tensor, " batch"]:
    """Sum over channels, scales and both directions of mean(noise * noise shifted)^2.

    The scales are 2x2 averages of one another, down to a height of at most 8; a shift is the same in both directions.
    """
    total = torch.zeros(len(noise), dtype=noise.dtype, device=noise.device)
    for scale in range(shifts.shape[2]):
        if scale:
            noise = F.avg_pool2d(noise, 2)
        for dim in (2, 3):
            total = total + (noise * _rolled(noise, shifts[:, :, scale], dim)).mean((2, 3)).square().sum(1)
    return total


def draw_shifts(
    noise: Float[Tensor, "batch channels height width"], generators: Sequence[torch.Generator]
) -> Int[Tensor, "batch channels scales"]:
    """Shifts in [0, height / 2) of every scale, drawn channel by channel as the authors draw them."""
    heights = [noise.shape[2]]
    while heights[-1] > _SMALLEST:
        heights.append(heights[-1] // 2)
    drawn = [
        [[int(torch.randint(0, side // 2, (1,), generator=each, device=each.device)) for side in heights]
         for _ in range(noise.shape[1])]
        for each in generators
    ]  # fmt: skip
    return torch.tensor(drawn, device=noise.device)


def _gradient(noise: Tensor, loss: object) -> Tensor:
    assert callable(loss)
    with torch.enable_grad():
        noise = noise.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(noise).sum(), noise)
    return slope


def _of_patches(noise: Tensor) -> tuple[Tensor, Tensor]:
    patches = noise.unfold(2, _PATCH, _PATCH).unfold(3, _PATCH, _PATCH).flatten(-2)
    return patches.mean(-1), patches.var(-1)


def _rolled(noise: Tensor, shifts: Tensor, dim: int) -> Tensor:
    """`torch.roll` along dim, with a shift for every sample and channel."""
    side = noise.shape[dim]
    places = (torch.arange(side, device=noise.device) - shifts[..., None]) % side
    return noise.gather(dim, places.unsqueeze(5 - dim).expand(noise.shape))
