"""Diffusion-DRO: the hinge, and what is left of the policy's own samples while the sampling policy is in step."""

from __future__ import annotations

import torch

from diffalign.denoising import NoiseDraw, Prediction, add_noise, denoising_errors, split_prediction
from diffalign.objectives import diffusion_dro
from tests.denoising.toys import PROCESSES, Seen, condition_of


def test_at_the_reference_the_loss_is_the_margin():
    errors = torch.rand(3, 2)
    output = diffusion_dro(errors, reference=errors, margin=0.001)
    torch.testing.assert_close(output.loss, torch.full((3,), 0.001))
    assert output.metrics["active"] == 1 and output.metrics["margin"] == 0 and output.metrics["pair_accuracy"] == 0


def test_groups_past_the_margin_are_left_alone():
    policy = torch.tensor([[0.1, 0.5], [0.5, 0.1]], requires_grad=True)
    output = diffusion_dro(policy, reference=torch.full((2, 2), 0.3), margin=0.1)
    torch.testing.assert_close(output.loss, torch.tensor([0.0, 0.5]))
    output.loss.sum().backward()
    assert torch.equal(policy.grad, torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    assert output.metrics["active"] == 0.5 and output.metrics["pair_accuracy"] == 0.5


def test_reference_moves_the_hinge_only():
    policy = torch.rand(3, 2, dtype=torch.float64)
    reference = torch.rand(3, 2, dtype=torch.float64)
    low = diffusion_dro(policy, reference=reference, margin=5.0).loss
    high = diffusion_dro(policy, reference=reference + torch.tensor([0.0, 1.0]), margin=5.0).loss
    torch.testing.assert_close(high, low + 1)


def _own_sample(prediction: Prediction, lag: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Error of the policy, and its gradient, on a sample of a policy whose weight differs by `lag`."""
    process = PROCESSES["vp"]
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    t, condition = torch.full((2,), 0.5), condition_of(2)
    sampler = Seen(process, prediction, weight=0.4 + lag)
    with torch.no_grad():
        x0, noise = split_prediction(process, prediction, sampler(x_t, t, condition), x_t, t)
    torch.testing.assert_close(add_noise(process, x0, noise, t), x_t)
    policy = Seen(process, prediction)
    errors = denoising_errors(policy, None, x0[:, None], condition, NoiseDraw(t[:, None], noise[:, None])).policy
    return errors, torch.autograd.grad(errors.sum(), policy.weight)[0]


def test_own_samples_carry_no_gradient_while_the_sampling_policy_is_the_trained_one():
    """Whatever is predicted: the network's own output is its target, so the error and its gradient are 0."""
    for prediction in (Prediction.NOISE, Prediction.V, Prediction.SAMPLE):
        error, gradient = _own_sample(prediction, lag=0.0)
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=1e-14)  # coefficients are float32
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
        error, gradient = _own_sample(prediction, lag=0.02)
        assert (error > 1e-8).all() and gradient.abs() > 1e-4
