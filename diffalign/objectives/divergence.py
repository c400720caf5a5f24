"""How far two networks are apart, per member: what the online objectives take as `divergence`.

All are means over elements, as log-probabilities and errors are: the papers' sum divided by the number of elements.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def gaussian_divergence(
    mean: Float[Tensor, "*steps groups members *sample"],
    *,
    other_mean: Float[Tensor, "*steps groups members *sample"],
    std: Float[Tensor, "*steps groups members"],
) -> Float[Tensor, "*steps groups members"]:
    """Kullback-Leibler divergence of two sampling steps with one std: mean over elements of (mean - other)^2 / (2 std^2).

    With the step's own std, s_t sqrt(-dt), this is exact, and what GRPO-Guard and Flow-DPPO take (other: the behaviour).
    flow_grpo's code divides its KL to the reference by 2 s_t^2 alone: give s_t as `std` for that, and its kl_weight.

    Source: Liu et al. 2025, "Flow-GRPO", the KL loss; flow_grpo scripts/train_sd3.py.
    """
    square = _mean_over_sample(mean, other_mean, std.ndim)
    return square / (2 * std**2)


@at_least_float32
def residual_divergence(
    residual: Float[Tensor, "groups members *sample"], *, other_residual: Float[Tensor, "groups members *sample"]
) -> Float[Tensor, "groups members"]:
    """Mean over elements of the squared difference of two networks' predictions on one x_t.

    Residuals are prediction - target, so their difference is that of the predictions: the papers' KL in velocity space.

    Source: Zheng et al. 2025, "DiffusionNFT"; Xue et al. 2025, "Advantage Weighted Matching", their code.
    """
    return _mean_over_sample(residual, other_residual, 2)


def weighted_divergence(
    divergence: Float[Tensor, "*steps groups members"] | None, weight: float, *, name: str, weight_name: str
) -> Float[Tensor, "*steps groups members"] | float:
    """weight * divergence, or 0 where the weight is.

    Raises:
        ConfigError: a weight without the divergence that it weighs.
    """
    if weight and divergence is None:
        raise ConfigError(f"{weight_name}: is {weight:g}, but no {name} was given; give it, or set {weight_name} to 0")
    return 0.0 if divergence is None or not weight else weight * divergence


def _mean_over_sample(first: Tensor, second: Tensor, leading: int) -> Tensor:
    return (first - second).square().flatten(leading).mean(-1)
