"""DiffusionNFT: values by hand, gradient, limits."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import nft

DEFAULTS = {"beta": 0.5, "advantage_clip": 5.0, "normalise": True, "kl_weight": 0.0}


@pytest.fixture
def inputs(generator):
    residuals = torch.randn(3, 2, 3, 4, 2, generator=generator, dtype=torch.float64)
    return {
        "policy_residual": residuals[0],
        "behaviour_residual": residuals[1],
        "reference_residual": residuals[2],
        "advantage": 3 * torch.randn(2, 3, generator=generator, dtype=torch.float64),
        "t": torch.rand(2, 3, generator=generator, dtype=torch.float64),
    }


def _run(inputs, **options):
    rest = {k: v for k, v in inputs.items() if k != "policy_residual"}
    return nft(inputs["policy_residual"], **rest, **DEFAULTS | options)


def test_by_hand():
    """One element: policy 1, behaviour 2, t = 1/2, b = 1 -> x0 errors 1/2 and 3/2; |.| is the scale of its own square."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    inputs = {"behaviour_residual": 2 * one, "advantage": 5 * half, "t": half}  # r = 3/4
    options = {"beta": 1.0, "advantage_clip": 5.0, "kl_weight": 0.0}
    assert nft(one, **inputs, **options, normalise=True).loss.item() == pytest.approx(5 * (0.75 * 0.5 + 0.25 * 1.5))
    assert nft(one, **inputs, **options, normalise=False).loss.item() == pytest.approx(5 * (0.75 / 4 + 0.25 * 9 / 4))


def test_at_the_behaviour_both_errors_are_one(inputs):
    inputs["policy_residual"] = inputs["behaviour_residual"]
    output = _run(inputs)
    assert output.metrics["positive_error"] == output.metrics["negative_error"]
    assert output.metrics["behaviour_kl"] == 0
    inputs["advantage"] = torch.zeros_like(inputs["advantage"])
    torch.testing.assert_close(output.loss, _run(inputs).loss)  # whatever the advantage


@pytest.mark.parametrize("normalise", [True, False])
def test_gradient_at_the_behaviour_is_advantage_weighted_matching(inputs, normalise):
    """r - (1 - r) = A / c: the two sides leave A times the gradient of the (scaled) behaviour's error."""
    advantage = inputs["advantage"].clamp(-5, 5)
    policy = inputs["behaviour_residual"].clone().requires_grad_()
    loss = _run(inputs | {"policy_residual": policy}, normalise=normalise).loss.sum()
    gradient = torch.autograd.grad(loss, policy)[0]
    sample = inputs["t"][..., None, None] * policy.detach()
    scale = sample.abs().mean((2, 3), keepdim=True) if normalise else 1.0
    expected = advantage[..., None, None] * 2 * sample / scale * inputs["t"][..., None, None] / (8 * 3)
    torch.testing.assert_close(gradient, expected)


def test_gradient_is_right(inputs):
    policy = inputs["policy_residual"].requires_grad_()
    options = {"normalise": False, "kl_weight": 0.3}  # the normaliser is held fixed, which gradcheck cannot know
    assert torch.autograd.gradcheck(lambda seen: _run(inputs | {"policy_residual": seen}, **options).loss, policy)


def test_no_gradient_goes_astray(inputs):
    for tensor in inputs.values():
        tensor.requires_grad_()
    _run(inputs, kl_weight=0.3).loss.sum().backward()
    assert [name for name, tensor in inputs.items() if tensor.grad is not None] == ["policy_residual", "t"]


def test_negating_the_advantage_mirrors_the_policy(inputs):
    mirrored = 2 * inputs["behaviour_residual"] - inputs["policy_residual"]
    there = _run(inputs).loss
    back = _run(inputs | {"policy_residual": mirrored, "advantage": -inputs["advantage"]}).loss
    torch.testing.assert_close(there, back)


def test_permuting_groups_and_members(inputs):
    loss = _run(inputs, kl_weight=0.1).loss
    torch.testing.assert_close(_run({k: v.flip(0) for k, v in inputs.items()}, kl_weight=0.1).loss, loss.flip(0))
    torch.testing.assert_close(_run({k: v.flip(1) for k, v in inputs.items()}, kl_weight=0.1).loss, loss)


@pytest.mark.parametrize("name", ["policy_residual", "advantage", "reference_residual"])
def test_nan_spoils_its_group_alone(inputs, name):
    inputs[name][1, 0] = math.nan
    policy = inputs["policy_residual"].requires_grad_()
    output = _run(inputs, kl_weight=0.1)
    assert output.loss.isnan().tolist() == [False, True]
    assert torch.autograd.grad(output.loss.sum(), policy)[0][0].isfinite().all()


def test_a_perfect_prediction_stays_finite(inputs):
    policy = torch.zeros_like(inputs["policy_residual"]).requires_grad_()
    output = _run(inputs | {"policy_residual": policy, "behaviour_residual": torch.zeros_like(policy)})
    output.loss.sum().backward()
    assert not output.loss.any() and policy.grad.isfinite().all()


def test_half_precision_is_widened(inputs):
    halves = {k: v.bfloat16() if k.endswith("residual") else v.float() for k, v in inputs.items()}
    assert _run(halves).loss.dtype == torch.float32


def test_kl_needs_the_reference(inputs):
    with pytest.raises(ConfigError, match=r"kl_weight: is 0\.1, but no reference_residual was given"):
        _run(inputs | {"reference_residual": None}, kl_weight=0.1)
