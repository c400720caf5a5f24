"""What a beta means: between sums and means, with and without the half, between prediction spaces, and in error gaps.

Every objective here weighs gaps of mean squared errors: pull = factor * beta * gap, with the factor in its row of the table
(`beta_factor`: 1/2 in Diffusion-DPO, 1 in GDRO). Two betas are the same when they pull the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from diffalign.exceptions import ConfigError

Number = TypeVar("Number", float, Tensor)
Coefficients: TypeAlias = tuple[float | Tensor, float | Tensor]  # (a, b) in target = a x0 + b noise


@dataclass(frozen=True)
class BetaForm:
    """How somebody's code writes its beta.

    Attributes:
        factor: what multiplies beta: 0.5 where the loss has beta / 2 (Diffusion-DPO, Flow-DPO, SmPO), 1 where it has beta.
        reduction: of the squared errors over the elements of a sample.
    """

    factor: float = 0.5
    reduction: Literal["mean", "sum"] = "mean"

    def pull(self, elements: int | None) -> float:
        """What multiplies beta times a gap of mean errors.

        Raises:
            ConfigError: no such reduction, a factor that is not > 0, or a sum over an unknown number of elements.
        """
        if self.factor <= 0:
            raise ConfigError(f"factor: must be > 0, got {self.factor:g}")
        if self.reduction == "mean":
            return self.factor
        if self.reduction != "sum":
            raise ConfigError(f"reduction: must be mean or sum, got {self.reduction!r}")
        if elements is None or elements < 1:
            raise ConfigError(f"elements: a beta on summed errors needs the number of elements of x0, got {elements}")
        return self.factor * elements


def convert_beta(beta: Number, *, source: BetaForm, target: BetaForm, elements: int | None = None) -> Number:
    """The beta in `target`'s form that pulls as `beta` does in `source`'s.

    Args:
        beta: in the source's form.
        source: how it is written there.
        target: how it is to be written.
        elements: of one sample's x0 (4 * 64 * 64 for SD1.5 at 512 pixels); needed where either form has sums.

    Raises:
        ConfigError: see `BetaForm.pull`.

    Example: diffusers' SD script has 2500 without the half; ours is with it:

        convert_beta(2500.0, source=BetaForm(factor=1.0), target=BetaForm(factor=0.5))  # 5000.0
    """
    return beta * (source.pull(elements) / target.pull(elements))


def residual_factor(
    alpha: float | Tensor, sigma: float | Tensor, *, source: Coefficients, target: Coefficients
) -> float | Tensor:
    """What a residual of the source prediction is multiplied by to be one of the target prediction, at one x_t.

        (alpha b' - a' sigma) / (alpha b - a sigma)

    Args:
        alpha, sigma: of the process, x_t = alpha x0 + sigma noise: numbers, or tensors over t.
        source: (a, b) of the prediction that the residual is of, target = a x0 + b noise: noise (0, 1), sample (1, 0),
            v (-sigma, alpha), flow (-1, 1); any other from `Prediction.coefficients(alpha, sigma)`.
        target: (a', b') of the prediction that it is to be of.

    Raises:
        ConfigError: the source says nothing about the target at some t (noise where there is no signal, sample where
            there is no noise).
    """
    (a, b), (a_target, b_target) = source, target
    denominator = alpha * b - a * sigma
    if bool((torch.as_tensor(denominator) == 0).any()):
        raise ConfigError(
            "the source prediction does not determine the target one where alpha b - a sigma is 0; leave those times out"
        )
    return (alpha * b_target - a_target * sigma) / denominator


def effective_beta(
    beta: float | Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
    *,
    measure: Coefficients,
    prediction: Coefficients,
) -> float | Tensor:
    """The beta that pulls on errors of `prediction` as `beta` does on errors of `measure`: beta times the factor squared.

    Over a grid of t it shows what a constant beta does at each noise level: a schedule in any other space. For the
    linear flow, errors measured as noise and seen as velocity give beta (1 - t)^2.

    Args:
        beta: on errors in the space of `measure`; constant, or a tensor over t.
        alpha, sigma: of the process at those t.
        measure: (a, b) of the space that errors are measured in: `training.measure`, or the network's own prediction.
        prediction: (a, b) of the space that the answer is wanted in.

    Raises:
        ConfigError: see `residual_factor`.
    """
    return beta * residual_factor(alpha, sigma, source=prediction, target=measure) ** 2


def calibrate_beta(gap: float, *, margin: float, factor: float) -> float:
    """The beta at which a wanted gap of mean errors gives a wanted margin: margin / (factor gap).

    Args:
        gap: how far apart two members' errors shall be driven, relative to the reference, per element (1e-3 is a
            strong change for a trained network).
        margin: what is inside the sigmoid then: 2 says that the better one wins at 88%; in GDRO, whose optimum is
            beta gap = reward gap / tau, the reward gap over tau.
        factor: the objective's `beta_factor`.

    Raises:
        ConfigError: a number that is not > 0.
    """
    for name, value in {"gap": gap, "margin": margin, "factor": factor}.items():
        if not value > 0:
            raise ConfigError(f"{name}: must be > 0, got {value:g}")
    return margin / (factor * gap)


def error_gap(beta: float, *, margin: float, factor: float) -> float:
    """The inverse of `calibrate_beta`: how far apart two mean errors are where the margin is reached.

    Raises:
        ConfigError: a number that is not > 0.
    """
    if not beta > 0:
        raise ConfigError(f"beta: must be > 0, got {beta:g}")
    return calibrate_beta(beta, margin=margin, factor=factor)
