"""Centered Reward Distillation: values by hand, gradient, its optimum, ties."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import crd

DEFAULTS = {
    "beta": 2.0,
    "loss": "mse",
    "temperature": None,
    "adaptive": False,
    "advantage_clip": 5.0,
    "kl_weight": 0.0,
    "adaptive_kl": False,
}
WAYS = {
    "mse": {},
    "bce": {"loss": "bce"},
    "weighted mse": {"temperature": 0.3},
    "weighted bce": {"loss": "bce", "temperature": 0.3},
    "adaptive": {"adaptive": True},
    "kl": {"kl_weight": 0.3, "adaptive_kl": True},
}
every = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


@pytest.fixture
def inputs(generator):
    residuals = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    errors = residuals.square().mean(-1)
    return {
        "policy": errors[0],
        "behaviour": errors[1],
        "advantage": 2 * torch.randn(3, 4, generator=generator, dtype=torch.float64),
        "policy_residual": residuals[0],
        "behaviour_residual": residuals[1],
        "divergence": torch.rand(3, 4, generator=generator, dtype=torch.float64),
    }


def _run(inputs, **options):
    return crd(inputs["policy"], **{k: v for k, v in inputs.items() if k != "policy"}, **DEFAULTS | options)


def test_by_hand():
    """a = (1, 0), R = (0.1, -0.3): beta gap = (0.4, -0.4), wanted (0.5, -0.5)."""
    inputs = {
        "policy": torch.tensor([[0.4, 0.8]], dtype=torch.float64),
        "behaviour": torch.tensor([[0.5, 0.5]], dtype=torch.float64),
        "advantage": torch.tensor([[9.0, -9.0]], dtype=torch.float64),
    }
    assert _run(inputs).loss.item() == pytest.approx(0.1**2 * 5 / 2)
    assert _run(inputs).metrics["reward_gap"] == pytest.approx(0.1)
    assert _run(inputs).metrics["implicit_reward"] == pytest.approx(-0.1)
    want = 1 / (1 + math.exp(-0.5))
    cross = math.log1p(math.exp(0.4)) - want * 0.4, math.log1p(math.exp(-0.4)) + (1 - want) * 0.4
    assert _run(inputs, loss="bce").loss.item() == pytest.approx(sum(cross) / 2 * 5 / 2)


def test_weighted_centres_by_hand(inputs):
    """The half-sum of two losses, centred on the good and on the bad, the long way."""
    target = (inputs["advantage"] / 10 + 0.5).clamp(0, 1)
    reward = inputs["behaviour"] - inputs["policy"]
    expected = torch.zeros(3, dtype=torch.float64)
    for sign in (1, -1):
        weight = (sign * target / 0.3).softmax(1)
        gap = 2 * (reward - (reward * weight).sum(1, keepdim=True)) - (target - (target * weight).sum(1, keepdim=True))
        expected += 0.5 * gap.square().mean(1)
    torch.testing.assert_close(_run(inputs, temperature=0.3).loss, expected * 5 / 2)


def test_hot_weights_are_the_plain_mean(inputs):
    for loss in ("mse", "bce"):
        torch.testing.assert_close(_run(inputs, loss=loss, temperature=1e9).loss, _run(inputs, loss=loss).loss)


def test_its_optimum_is_the_centred_reward(inputs):
    """At error_i = behaviour_i - a_i / beta + anything that the group shares; nothing is left to learn there."""
    target = (inputs["advantage"] / 10 + 0.5).clamp(0, 1)
    policy = (inputs["behaviour"] - target / 2 + 0.37).requires_grad_()
    for options in WAYS.values():
        if options.get("adaptive") or options.get("kl_weight"):
            continue
        output = _run(inputs | {"policy": policy}, **options)
        assert output.metrics["reward_gap"] < 1e-12
        assert torch.autograd.grad(output.loss.sum(), policy)[0].abs().max() < 1e-12


def test_gradient_is_right(inputs):
    """The detached mean does not matter to the plain square: what it would add sums to 0."""
    policy = inputs["policy"].requires_grad_()
    options = {"kl_weight": 0.3, "adaptive_kl": True}
    assert torch.autograd.gradcheck(lambda seen: _run(inputs | {"policy": seen}, **options).loss, policy)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_no_gradient_goes_through_the_weighted_centres(inputs, loss):
    """Each member's error has the slope of its own two terms alone, the long way; the plain mean would cancel it."""
    target = (inputs["advantage"] / 10 + 0.5).clamp(0, 1)
    policy = inputs["policy"].requires_grad_()
    reward = inputs["behaviour"] - policy.detach()
    expected = torch.zeros_like(reward)
    for sign in (1, -1):
        weight = (sign * target / 0.3).softmax(1)
        got, want = (it - (it * weight).sum(1, keepdim=True) for it in (reward, target))
        slope = 2 * (2 * got - want) if loss == "mse" else torch.sigmoid(2 * got) - torch.sigmoid(want)
        expected -= 0.5 * 2 * slope / 4 * 5 / 2  # half of two, beta, slope, 4 members, c / beta
    found = torch.autograd.grad(_run(inputs, loss=loss, temperature=0.3).loss.sum(), policy)[0]
    torch.testing.assert_close(found, expected)


def test_no_gradient_goes_through_the_centre_of_bce(inputs):
    target = (inputs["advantage"] / 10 + 0.5).clamp(0, 1)
    policy = inputs["policy"].requires_grad_()
    reward = inputs["behaviour"] - policy.detach()
    got, want = (it - it.mean(1, keepdim=True) for it in (reward, target))
    expected = -2 * (torch.sigmoid(2 * got) - torch.sigmoid(want)) / 4 * 5 / 2
    found = torch.autograd.grad(_run(inputs, loss="bce").loss.sum(), policy)[0]
    torch.testing.assert_close(found, expected)


@every
def test_at_the_behaviour_good_members_errors_go_down(inputs, options):
    policy = inputs["behaviour"].clone().requires_grad_()
    inputs["policy_residual"] = inputs["behaviour_residual"]
    gradient = torch.autograd.grad(_run(inputs | {"policy": policy}, **options).loss.sum(), policy)[0]
    best, worst = inputs["advantage"].argmax(1, keepdim=True), inputs["advantage"].argmin(1, keepdim=True)
    assert (gradient.gather(1, best) > 0).all() and (gradient.gather(1, worst) < 0).all()


def test_adaptive_divides_by_the_mean_size(inputs):
    sizes = [inputs[name].abs().mean(-1) for name in ("policy_residual", "behaviour_residual")]
    scaled = inputs | {"policy": inputs["policy"] / sizes[0], "behaviour": inputs["behaviour"] / sizes[1]}
    torch.testing.assert_close(_run(inputs, adaptive=True).loss, _run(scaled).loss)
    for name in ("policy_residual", "behaviour_residual"):
        inputs[name].requires_grad_()
    assert not _run(inputs, adaptive=True).loss.requires_grad  # the sizes carry no gradient


@every
def test_equal_rewards_at_the_behaviour_teach_nothing(inputs, options):
    policy = inputs["behaviour"].clone().requires_grad_()
    inputs |= {"policy": policy, "advantage": torch.zeros(3, 4, dtype=torch.float64)}
    inputs["policy_residual"] = inputs["behaviour_residual"]
    gradient = torch.autograd.grad(_run(inputs, **options).loss.sum(), policy)[0]
    assert gradient.abs().max() < 1e-12


@every
def test_permuting_groups_and_members(inputs, options):
    loss = _run(inputs, **options).loss
    torch.testing.assert_close(_run({k: v.flip(0) for k, v in inputs.items()}, **options).loss, loss.flip(0))
    torch.testing.assert_close(_run({k: v.flip(1) for k, v in inputs.items()}, **options).loss, loss)


@every
@pytest.mark.parametrize("name", ["policy", "behaviour", "advantage"])
def test_nan_spoils_its_group_alone(inputs, options, name):
    inputs[name][1, 0] = math.nan
    policy = inputs["policy"].requires_grad_()
    loss = _run(inputs, **options).loss
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


def test_no_gradient_into_the_behaviour(inputs):
    behaviour = inputs["behaviour"].requires_grad_()
    inputs["policy"].requires_grad_()
    _run(inputs).loss.sum().backward()
    assert behaviour.grad is None


def test_kl_may_follow_the_reward(inputs):
    divergence = inputs["divergence"]
    inputs["advantage"] = torch.tensor([[9.0, -9.0, 0.0, 9.0]] * 3, dtype=torch.float64)  # a = 1, 0, 1/2, 1
    plain = _run(inputs).loss
    torch.testing.assert_close(_run(inputs, kl_weight=0.1).loss - plain, 0.1 * divergence.mean(1))
    weights = torch.tensor([0.1, 1e-4, 0.05005, 0.1], dtype=torch.float64)
    followed = _run(inputs, kl_weight=0.1, adaptive_kl=True).loss - plain
    torch.testing.assert_close(followed, (weights * divergence).mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l1"}, "loss: must be mse or bce, got 'l1'"),
        ({"adaptive": True}, "adaptive: needs policy_residual and behaviour_residual"),
        ({"kl_weight": 0.1, "adaptive_kl": True}, r"kl_weight: is 0\.1, but no divergence was given"),
    ],
)
def test_wrong_options_are_refused(inputs, options, message, unchecked_types):
    bare = {name: inputs[name] for name in ("policy", "behaviour", "advantage")}
    with pytest.raises(ConfigError, match=message):
        _run(bare, **options)
