"""Numbers recorded in float64 from the papers' formulas, written independently of this package.

Source: the method notes on Diffusion-DPO (section 9; the loss block of the authors' train.py) and on Flow-DPO
(section 8; eq 6 of the paper and flow_grpo's train_sd3_dpo.py). Six digits each.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffalign.denoising import LinearFlow, NoiseDraw, Prediction, denoising_errors
from diffalign.objectives import diffusion_dpo, flow_dpo
from tests.denoising.toys import Fixed, condition_of

# ---------------------------------------------------------------- Diffusion-DPO

POLICY = torch.tensor([[0.1210, 0.0874, 0.2050, 0.0433], [0.1225, 0.0869, 0.2075, 0.0431]], dtype=torch.float64).T
REFERENCE = torch.tensor([[0.1214, 0.0872, 0.2048, 0.0436], [0.1222, 0.0870, 0.2079, 0.0429]], dtype=torch.float64).T


def _six(found: Tensor, expected: list[float] | float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


@pytest.mark.parametrize(
    ("beta", "margins", "losses", "mean"),
    [
        (2000.0, [0.7, -0.3, -0.6, 0.5], [0.403186, 0.854355, 1.037488, 0.474077], 0.692277),
        (5000.0, [1.75, -0.75, -1.5, 1.25], [0.160224, 1.136871, 1.701413, 0.251929], 0.812609),
    ],
)
def test_diffusion_dpo_values(beta, margins, losses, mean):
    output = diffusion_dpo(POLICY, reference=REFERENCE, beta=beta)
    _six(output.loss, losses)
    _six(output.loss.mean(), mean)
    _six(output.metrics["margin"], sum(margins) / 4)
    _six(output.metrics["pair_accuracy"], 0.5)
    for pair, margin in enumerate(margins):
        alone = diffusion_dpo(POLICY[pair : pair + 1], reference=REFERENCE[pair : pair + 1], beta=beta)
        _six(alone.metrics["margin"], margin)


def test_diffusion_dpo_gradient():
    policy = POLICY.clone().requires_grad_()
    diffusion_dpo(policy, reference=REFERENCE, beta=5000.0).loss.mean().backward()
    winner = [92.529499, 424.486687, 510.984048, 139.187587]
    _six(policy.grad[:, 0], winner)
    _six(policy.grad[:, 1], [-value for value in winner])


def test_diffusion_dpo_is_not_the_loss_of_the_mean_margin():
    """diffusers#6702: an early script took logsigmoid of the batch mean, which gives 0.603785 here."""
    output = diffusion_dpo(POLICY, reference=REFERENCE, beta=5000.0)
    wrong = -torch.nn.functional.logsigmoid(output.metrics["margin"])
    _six(wrong, 0.603785)
    assert abs(output.loss.mean() - wrong) > 0.2


def test_diffusion_dpo_is_the_published_form():
    """The authors' loss block, the long way: w/l halves, model_diff - ref_diff, scaled by -beta/2."""
    model_losses, reference_losses = POLICY.T.reshape(-1), REFERENCE.T.reshape(-1)  # all winners, then all losers
    model_w, model_l = model_losses.chunk(2)
    reference_w, reference_l = reference_losses.chunk(2)
    inside = -0.5 * 5000 * ((model_w - model_l) - (reference_w - reference_l))
    long_way = -torch.nn.functional.logsigmoid(inside)
    torch.testing.assert_close(diffusion_dpo(POLICY, reference=REFERENCE, beta=5000.0).loss, long_way)


def test_beta_on_summed_errors():
    """The same pull on summed errors has beta / elements: 0.1526 and 0.0381 for SD1.5 and SDXL at beta 5000."""
    elements = 4 * 64 * 64
    assert [round(2500 / count, 4) for count in (elements, 4 * elements)] == [0.1526, 0.0381]
    summed = diffusion_dpo(POLICY * elements, reference=REFERENCE * elements, beta=5000 / elements)
    torch.testing.assert_close(summed.loss, diffusion_dpo(POLICY, reference=REFERENCE, beta=5000.0).loss)


@pytest.mark.parametrize(
    ("loss", "label_smoothing", "mean"),
    [("sigmoid", 0.0, 0.812609), ("hinge", 0.0, 1.062500), ("sigmoid", 0.1, 0.831359), ("robust", 0.1, 0.789172)],
    ids=["dpo", "hinge", "cdpo", "robust"],
)
def test_other_losses_of_the_margin(loss, label_smoothing, mean):
    """hinge is diffusers' at its beta_dpo 2500, which has no half."""
    options = {"beta": 5000.0, "loss": loss, "label_smoothing": label_smoothing}
    _six(diffusion_dpo(POLICY, reference=REFERENCE, **options).loss.mean(), mean)
    flow = flow_dpo(POLICY, reference=REFERENCE, t=torch.full_like(POLICY, 0.5), schedule="constant", **options)
    _six(flow.loss.mean(), mean)


# ---------------------------------------------------------------- Flow-DPO

X0 = torch.tensor([[[0.5, -0.25, 1.0, 0.0], [-0.5, 0.75, 0.25, 1.0]]], dtype=torch.float64)
NOISE = torch.tensor([0.2, -0.4, 0.6, -0.8], dtype=torch.float64).expand(1, 2, 4)
VELOCITY = torch.tensor([[-0.3, -0.15, -0.4, -0.8], [0.7, -1.15, 0.35, -1.8]], dtype=torch.float64)
THETA = VELOCITY + torch.tensor([[0.10, -0.20, 0.05, 0.15], [0.30, 0.10, -0.20, 0.25]], dtype=torch.float64)
FROZEN = VELOCITY + torch.tensor([[0.20, -0.20, 0.10, 0.20], [0.25, 0.10, -0.15, 0.20]], dtype=torch.float64)
DRAW = NoiseDraw(torch.full((1, 2), 0.5), NOISE)
FLOW = LinearFlow()


def _errors(measure: Prediction | None = None):
    policy, reference = Fixed(FLOW, Prediction.FLOW, THETA), Fixed(FLOW, Prediction.FLOW, FROZEN)
    return denoising_errors(policy, reference, X0, condition_of(1), DRAW, measure=measure)


def test_flow_errors():
    errors = _errors()
    _six(errors.policy, [[0.018750, 0.050625]])
    _six(errors.reference, [[0.032500, 0.033750]])
    _six(errors.policy * 4, [[0.075, 0.2025]])  # summed
    _six(errors.reference * 4, [[0.130, 0.135]])
    gap = (errors.policy - errors.reference) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    _six(gap, [-0.030625])


def test_flow_x_t():
    seen = []

    class Looking(Fixed):
        def __call__(self, x_t, t, condition):
            seen.append(x_t)
            return super().__call__(x_t, t, condition)

    denoising_errors(Looking(FLOW, Prediction.FLOW, THETA), None, X0, condition_of(1), DRAW)
    _six(seen[0], [[0.35, -0.325, 0.8, -0.4], [-0.15, 0.175, 0.425, 0.1]])


@pytest.mark.parametrize(
    ("beta", "schedule", "loss"),
    [
        (100.0, "constant", 0.195785),
        (100.0, "one_minus_t_sq", 0.519948),
        (500.0, "constant", 0.000473),
        (500.0, "one_minus_t_sq", 0.137568),
        (100.0 * 4, "constant", 0.002185),  # errors summed over the 4 elements
        (100.0 * 4, "one_minus_t_sq", 0.195785),
    ],
)
def test_flow_dpo_values(beta, schedule, loss):
    errors = _errors()
    output = flow_dpo(errors.policy, reference=errors.reference, t=errors.t, beta=beta, schedule=schedule)
    _six(output.loss, [loss])


@pytest.mark.parametrize(("schedule", "inside"), [("constant", 1.531250), ("one_minus_t_sq", 0.3828125)])
def test_flow_dpo_margin(schedule, inside):
    errors = _errors()
    output = flow_dpo(errors.policy, reference=errors.reference, t=errors.t, beta=100.0, schedule=schedule)
    _six(output.metrics["margin"], inside)
    _six(output.metrics["pair_accuracy"], 1.0)


def test_flow_dpo_gradient():
    errors = _errors()
    policy = errors.policy.clone().requires_grad_()
    flow_dpo(policy, reference=errors.reference, t=errors.t, beta=100.0, schedule="constant").loss.sum().backward()
    _six(policy.grad, [[8.890543, -8.890543]])  # dL/dD, and D grows with the winner's error


def test_the_schedule_is_measuring_in_noise_space():
    """beta (1 - t)^2 on velocity errors is constant beta on noise errors."""
    flow, noise = _errors(), _errors(Prediction.NOISE)
    scheduled = flow_dpo(flow.policy, reference=flow.reference, t=flow.t, beta=100.0, schedule="one_minus_t_sq")
    constant = flow_dpo(noise.policy, reference=noise.reference, t=noise.t, beta=100.0, schedule="constant")
    torch.testing.assert_close(scheduled.loss, constant.loss)
    _six(constant.loss, [0.519948])


def test_at_the_reference_the_gradient_scale_is_a_quarter_of_beta():
    policy = REFERENCE.clone().requires_grad_()
    output = flow_dpo(policy, reference=REFERENCE, t=torch.full((4, 2), 0.5), beta=100.0, schedule="constant")
    output.loss.sum().backward()
    _six(output.loss, [math.log(2)] * 4)
    _six(policy.grad, [[25.0, -25.0]] * 4)
