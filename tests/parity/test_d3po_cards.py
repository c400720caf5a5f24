"""Numbers recorded in float64 from the paper's formulas, written independently of this package.

Source: the method notes on D3PO (section 9; the authors' ddim_with_logprob.py and train_d3po.py) and on SPO (in those
on the neighbours). The log-densities are made the long way here, so that the losses can be told to six digits.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffalign.denoising import VP, Prediction
from diffalign.objectives import d3po
from diffalign.samplers import DDIM, log_density
from tests.denoising.toys import Fixed
from tests.samplers.toys import no_condition

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS_CUMPROD = torch.cumprod(1 - BETAS, dim=0)
X = [0.5, -1, 0.8, 0.1]
NOISE = [[0.4, -0.9, 0.7, 0], [0.2, -0.8, 0.9, 0.1]]
REFERENCE_NOISE = [[0.45, -0.95, 0.6, 0.05], [0.25, -0.85, 0.8, 0.15]]
X_NEXT = [[0.55, -0.95, 0.7, 0.2], [0.35, -0.9, 0.95, 0.0]]


def _six(found: Tensor, expected: list[float] | float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


def _step(noise: list, t: int, t_next: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and per-element log-density of a DDIM step with eta 1."""
    x, noise, x_next = (torch.tensor(it, dtype=torch.float64) for it in (X, noise, X_NEXT[: len(noise)]))
    bar, bar_next = ALPHAS_CUMPROD[t], ALPHAS_CUMPROD[t_next]
    std = ((1 - bar_next) / (1 - bar) * (1 - bar / bar_next)).sqrt()
    x0 = (x - (1 - bar).sqrt() * noise) / bar.sqrt()
    mean = bar_next.sqrt() * x0 + (1 - bar_next - std**2).sqrt() * noise
    density = -((x_next - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return mean, std, density


def _log_probs() -> tuple[Tensor, Tensor]:
    return _step(NOISE, 501, 451)[2].mean(1)[None], _step(REFERENCE_NOISE, 501, 451)[2].mean(1)[None]


def _loss(beta: float, preference: float, policy: Tensor, reference: Tensor) -> Tensor:
    chosen = torch.tensor([preference], dtype=torch.float64)
    return d3po(policy, reference_log_prob=reference, preference=chosen, beta=beta, clip=0.1).loss


def test_log_densities():
    _six(ALPHAS_CUMPROD[[501, 451]], [0.2749990669, 0.3455582161])
    mean, std, density = _step(NOISE, 501, 451)
    _six(std, 0.4293211493)
    _six(mean[0], [0.452959, -0.879037, 0.708606, 0.112097])
    policy, reference = _log_probs()
    _six(policy, [[-0.088480, -0.154076]])
    _six(reference, [[-0.094317, -0.139653]])
    _six(density.sum(1)[0], -0.353922)
    _six(_step(REFERENCE_NOISE, 501, 451)[2].sum(1)[0], -0.377269)
    _six(policy - reference, [[0.005837, -0.014423]])
    _six((policy - reference).exp(), [[1.005854, 0.985681]])


def test_last_step():
    _, std, density = _step(NOISE, 1, 0)
    _six(std, 0.0206483)
    _six(density.mean(1)[0], -3.413506)


def _our_step(noise: list[float], x_next: list[float], t: int, t_next: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Std, mean, and the log-density as a mean and as a sum, of the package's own DDIM step."""
    process = VP(ALPHAS_CUMPROD)
    x, output, after = (torch.tensor([it], dtype=torch.float64) for it in (X, noise, x_next))
    times = ((torch.tensor([index], dtype=torch.float64) + 1) / 1000 for index in (t, t_next))
    step = DDIM(eta=1.0).step(Fixed(process, Prediction.NOISE, output), x, *times, no_condition(1))
    mean, total = (log_density(after, step.mean, step.std, reduce=reduce) for reduce in ("mean", "sum"))
    return step.std[0, 0], step.mean[0], mean[0], total[0]


def test_the_ddim_step_and_its_log_density():
    std, mean, log_prob, total = _our_step(NOISE[0], X_NEXT[0], 501, 451)
    _six(std, 0.4293211493)
    _six(mean, [0.452959, -0.879037, 0.708606, 0.112097])
    _six(log_prob, -0.088480)
    _six(total, -0.353922)
    _six(_our_step(REFERENCE_NOISE[0], X_NEXT[0], 501, 451)[2], -0.094317)
    _six(_our_step(NOISE[1], X_NEXT[1], 501, 451)[2], -0.154076)
    _six(_our_step(REFERENCE_NOISE[1], X_NEXT[1], 501, 451)[2], -0.139653)


def test_the_last_ddim_step_goes_to_index_0():
    """Not to data, where std is 0 and there is no density: a Stable Diffusion folder's own last time."""
    std, _, log_prob, _ = _our_step(NOISE[0], X_NEXT[0], 1, 0)
    _six(std, 0.0206483)
    _six(log_prob, -3.413506)


@pytest.mark.parametrize(
    ("beta", "preference", "loss"), [(0.1, 1.0, 0.692135), (10.0, 1.0, 0.596971), (0.1, 0.5, 0.693147)]
)
def test_losses(beta, preference, loss):
    _six(_loss(beta, preference, *_log_probs()), [loss])


def test_nothing_is_clipped():
    policy, reference = _log_probs()
    chosen = torch.ones(1, dtype=torch.float64)
    output = d3po(policy, reference_log_prob=reference, preference=chosen, beta=0.1, clip=0.1)
    assert output.metrics["clip_fraction"] == 0


@pytest.mark.parametrize(("beta", "low", "high"), [(0.1, 0.683164, 0.703231), (10.0, 0.126131, 2.132838)])
def test_bounds(beta, low, high):
    """The clip confines the loss: D3PO's at beta 0.1, SPO's at beta 10."""
    far = torch.tensor([[50.0, -50.0]], dtype=torch.float64)
    _six(_loss(beta, 1.0, far, torch.zeros_like(far)), [low])
    _six(_loss(beta, 0.0, far, torch.zeros_like(far)), [high])
