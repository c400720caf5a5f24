"""What a network predicts. A prediction type is two numbers at each time: target = a x0 + b noise.

This is the one place that knows what "v-prediction" and its siblings mean.
"""

from __future__ import annotations

from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising.process import Process, coefficients_at
from diffalign.exceptions import ShapeError


class Prediction(Enum):
    """The prediction types of diffusion and flow models."""

    NOISE = "noise"  # the noise ("epsilon"): DDPM, SD1.5, SDXL
    SAMPLE = "sample"  # the clean sample
    V = "v"  # alpha noise - sigma x0 (Salimans & Ho 2022)
    FLOW = "flow"  # noise - x0, the velocity of the linear flow
    EDM = "edm"  # the raw network output F of Karras et al. 2022, eq 7

    def coefficients(
        self, alpha: Float[Tensor, "*shape"], sigma: Float[Tensor, "*shape"], sigma_data: float = 1.0
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """(a, b) in target = a x0 + b noise."""
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        if self is Prediction.NOISE:
            return zero, one
        if self is Prediction.SAMPLE:
            return one, zero
        if self is Prediction.V:
            return -sigma, alpha
        if self is Prediction.FLOW:
            return -one, one
        # with s = sigma/alpha and n = sqrt(s^2 + d^2): (s / (d n), -d / n), multiplied out so that alpha may be 0
        norm = torch.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
        return sigma / (sigma_data * norm), -alpha * sigma_data / norm


def target_of(
    process: Process,
    prediction: Prediction,
    x0: Float[Tensor, "batch *sample"],
    noise: Float[Tensor, "batch *sample"],
    t: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *sample"]:
    """What a perfect network would say."""
    a, b = prediction.coefficients(*coefficients_at(process, t, x0.ndim), process.sigma_data)
    return a * x0 + b * noise


def split_prediction(
    process: Process,
    prediction: Prediction,
    output: Float[Tensor, "batch *sample"],
    x_t: Float[Tensor, "batch *sample"],
    t: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch *sample"], Float[Tensor, "batch *sample"]]:
    """The clean sample and the noise that a network's output means: the 2x2 inverse of process and prediction.

    Computed in at least float32.

    Raises:
        ShapeError: at some t the output does not determine them (noise prediction where there is no signal).
    """
    wide = torch.promote_types(torch.promote_types(output.dtype, x_t.dtype), torch.float32)
    output, x_t = output.to(wide), x_t.to(wide)
    alpha, sigma = coefficients_at(process, t, x_t.ndim)
    a, b = prediction.coefficients(alpha, sigma, process.sigma_data)
    scale = alpha * b - a * sigma
    _refuse_zero(scale, t, f"a {prediction.value} prediction does not determine the sample")
    return (b * x_t - sigma * output) / scale, (alpha * output - a * x_t) / scale


def conversion_factor(
    process: Process, source: Prediction, target: Prediction, t: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """At fixed x_t the residuals of two predictions differ by (alpha b' - a' sigma) / (alpha b - a sigma).

    Raises:
        ShapeError: the denominator is 0 at some t (the source says nothing about the target there).
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    a, b = source.coefficients(alpha, sigma, process.sigma_data)
    a_target, b_target = target.coefficients(alpha, sigma, process.sigma_data)
    denominator = alpha * b - a * sigma
    _refuse_zero(denominator, t, f"errors of a {source.value} prediction cannot be measured as {target.value}")
    return (alpha * b_target - a_target * sigma) / denominator


def _refuse_zero(value: Tensor, t: Tensor, what: str) -> None:
    bad = (value.reshape(len(t), -1) == 0).any(1)
    if bool(bad.any()):
        raise ShapeError(f"{what} at t = {t[bad][0].item():g}, where the factor between them is 0; draw other times")
