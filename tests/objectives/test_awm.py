"""Advantage Weighted Matching: values by hand, gradient, limits."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import awm

WEIGHTINGS = ["uniform", "t", "t_squared", "huber", "ghuber"]
DEFAULTS = {
    "weighting": "ghuber",
    "power": 0.25,
    "clip": 1.0,
    "advantage_clip": 5.0,
    "advantage_scale": 1.0,
    "kl_weight": 0.1,
    "ema_weight": 0.2,
}
every = pytest.mark.parametrize("weighting", WEIGHTINGS)


@pytest.fixture
def inputs(generator):
    def draw():
        return torch.rand(2, 3, generator=generator, dtype=torch.float64)

    names = ("policy", "behaviour", "t", "divergence", "ema_divergence")
    return {name: draw() for name in names} | {"advantage": 4 * draw() - 2}


def _run(inputs, **options):
    return awm(inputs["policy"], **{k: v for k, v in inputs.items() if k != "policy"}, **DEFAULTS | options)


def test_by_hand():
    """exp(-(0.5 - 0.7)) = 1.2214; A = 2.5 / 5 * 1, stopped at 1.1."""
    policy, behaviour = torch.tensor([[0.5]]), torch.tensor([[0.7]])
    options = DEFAULTS | {"weighting": "uniform", "kl_weight": 0.0, "ema_weight": 0.0}
    inputs = {"behaviour": behaviour, "advantage": torch.tensor([[2.5]]), "t": torch.tensor([[0.3]])}
    assert awm(policy, **inputs, **options).loss.item() == pytest.approx(-0.5 * math.exp(0.2))
    stopped = awm(policy, **inputs, **options | {"clip": 0.1})
    assert stopped.loss.item() == pytest.approx(-0.55) and stopped.metrics["clip_fraction"] == 1


@every
def test_on_policy_it_is_advantage_weighted_matching(inputs, weighting):
    policy = inputs["policy"].requires_grad_()
    on_policy = inputs | {"behaviour": policy.detach()}
    output = _run(on_policy, weighting=weighting, kl_weight=0.0, ema_weight=0.0)
    assert output.metrics["ratio"] == 1
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    error, t = policy.detach(), inputs["t"]
    slope = {
        "uniform": torch.ones_like(error),
        "t": t,
        "t_squared": t**2,
        "huber": t / (2 * (error + 1e-10).sqrt()),
        "ghuber": t * (error + 1e-10) ** (0.25 - 1),
    }[weighting]
    torch.testing.assert_close(gradient, inputs["advantage"] / 5 * slope / 3)  # good members' errors go down


@every
def test_gradient_is_right(inputs, weighting):
    policy = inputs["policy"].requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda seen: _run(inputs | {"policy": seen}, weighting=weighting, clip=0.3).loss, policy)


@every
def test_permuting_groups_and_members(inputs, weighting):
    loss = _run(inputs, weighting=weighting).loss
    torch.testing.assert_close(_run({k: v.flip(0) for k, v in inputs.items()}, weighting=weighting).loss, loss.flip(0))
    torch.testing.assert_close(_run({k: v.flip(1) for k, v in inputs.items()}, weighting=weighting).loss, loss)


@every
def test_a_perfect_prediction_stays_finite(inputs, weighting):
    policy = torch.zeros_like(inputs["policy"]).requires_grad_()
    output = _run(inputs | {"policy": policy}, weighting=weighting)
    output.loss.sum().backward()
    assert output.loss.isfinite().all() and policy.grad.isfinite().all()


@every
@pytest.mark.parametrize("name", ["policy", "behaviour", "advantage", "divergence"])
def test_nan_spoils_its_group_alone(inputs, weighting, name):
    inputs[name][0, 1] = math.nan
    policy = inputs["policy"].requires_grad_()
    loss = _run(inputs, weighting=weighting).loss
    assert loss.isnan().tolist() == [True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][1].isfinite().all()


def test_huber_is_ghuber_of_a_half(inputs):
    """(m^(1/2) - ...) t / (1/2) is twice huber: the ratio squared."""
    plain = {"kl_weight": 0.0, "ema_weight": 0.0, "clip": None}
    one = {k: v[:1, :1] for k, v in inputs.items()}
    huber = _run(one, weighting="huber", **plain).metrics["ratio"]
    torch.testing.assert_close(_run(one, weighting="ghuber", power=0.5, **plain).metrics["ratio"], huber**2)


def test_no_gradient_into_the_behaviour(inputs):
    behaviour = inputs["behaviour"].requires_grad_()
    inputs["policy"].requires_grad_()
    _run(inputs).loss.sum().backward()
    assert behaviour.grad is None


@pytest.mark.parametrize(("name", "weight"), [("divergence", "kl_weight"), ("ema_divergence", "ema_weight")])
def test_a_weight_needs_its_divergence(inputs, name, weight):
    without = inputs | {name: None}
    with pytest.raises(ConfigError, match=rf"{weight}: is 0\.3, but no {name} was given"):
        _run(without, **{weight: 0.3})
    shift = _run(inputs, **{weight: 0.3}).loss - _run(without, **{weight: 0.0}).loss
    torch.testing.assert_close(shift, 0.3 * inputs[name].mean(1))


def test_unknown_weighting_is_refused(inputs, unchecked_types):
    with pytest.raises(ConfigError, match="weighting: must be uniform, t, t_squared, huber or ghuber, got 'snr'"):
        _run(inputs, weighting="snr")
