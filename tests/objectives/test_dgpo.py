"""DGPO: values by hand, gradient, the limits of a pair and of ties."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import OBJECTIVES, dgpo, diffusion_dpo

FORMS = ("logistic", "weighted")
DEFAULTS = {"beta": 3.0, "clip": None, "advantage_clip": 5.0, "kl_weight": 0.0, "form": "logistic"}


@pytest.fixture
def inputs(generator):
    draw = torch.rand(4, 3, 4, generator=generator, dtype=torch.float64)
    advantage = draw[3] - draw[3].mean(1, keepdim=True)
    return {"policy": draw[0], "reference": draw[1], "behaviour": draw[2], "advantage": 3 * advantage}


def _run(inputs, **options):
    return dgpo(inputs["policy"], **{k: v for k, v in inputs.items() if k != "policy"}, **DEFAULTS | options)


def test_by_hand():
    """A = (2, -2), deltas (-0.1, 0.3): S = 3 (-0.2 - 0.6) / 2 = -1.2."""
    reference = torch.full((1, 2), 0.5, dtype=torch.float64)
    policy = reference + torch.tensor([-0.1, 0.3], dtype=torch.float64)
    advantage = torch.tensor([[2.0, -2.0]], dtype=torch.float64)
    inputs = {"policy": policy, "reference": reference, "behaviour": policy, "advantage": advantage}
    assert _run(inputs).loss.item() == pytest.approx(math.log1p(math.exp(-1.2)))
    assert _run(inputs).metrics["margin"] == pytest.approx(1.2)
    assert _run(inputs).metrics["group_accuracy"] == 1
    weight = 1 / (1 + math.exp(1.2))
    assert _run(inputs, form="weighted").loss.item() == pytest.approx(weight * (2 * 0.4 - 2 * 0.8) / 2)


def test_a_pair_is_diffusion_dpo(inputs):
    """With advantages 1 and -1; so the factor on beta is 1/2 there."""
    pair = {k: v[:, :2] for k, v in inputs.items()} | {"advantage": torch.tensor([[1.0, -1.0]] * 3).double()}
    expected = diffusion_dpo(pair["policy"], reference=pair["reference"], beta=3.0)
    torch.testing.assert_close(_run(pair).loss, expected.loss)
    torch.testing.assert_close(_run(pair).metrics["margin"], expected.metrics["margin"])
    assert OBJECTIVES["dgpo"].params.beta_factor == OBJECTIVES["diffusion_dpo"].params.beta_factor == 0.5


def test_at_the_reference(inputs):
    output = _run(inputs | {"policy": inputs["reference"]})
    torch.testing.assert_close(output.loss, torch.full((3,), math.log(2), dtype=torch.float64))
    assert output.metrics["margin"] == 0 and output.metrics["group_accuracy"] == 0 and output.metrics["weight"] == 0.5


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_codes_form_has_the_papers_gradient(inputs, clip):
    policy = inputs["policy"].requires_grad_()
    logistic, weighted = (
        torch.autograd.grad(_run(inputs, form=form, clip=clip).loss.sum(), policy)[0] for form in FORMS
    )
    torch.testing.assert_close(logistic, 3.0 * weighted)
    assert logistic.any()


def test_gradient_is_right(inputs):
    policy = inputs["policy"].requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: _run(inputs | {"policy": seen}).loss, policy)
    gradient = torch.autograd.grad(_run(inputs, form="weighted").loss.sum(), policy)[0]
    assert torch.equal(gradient.sign(), inputs["advantage"].sign())  # descent: good members' errors down


def test_the_clip_stops_members_that_ran_on():
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    behaviour = torch.full((1, 4), 0.5, dtype=torch.float64)
    policy = (behaviour + torch.tensor([-0.2, 0.2, 0.2, -0.2], dtype=torch.float64)).requires_grad_()
    inputs = {"policy": policy, "reference": behaviour, "behaviour": behaviour, "advantage": advantage}
    for form in FORMS:
        output = _run(inputs, form=form, clip=0.1)
        gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
        assert (gradient != 0).tolist() == [[False, True, False, True]]
        assert output.metrics["clip_fraction"] == 0.5
        torch.testing.assert_close(output.loss, _run(inputs, form=form).loss)  # the value stays


@pytest.mark.parametrize("form", FORMS)
def test_what_all_members_share_cancels(inputs, form):
    """Advantages sum to 0: a common shift of the errors moves neither the loss nor the gradient."""
    policy = inputs["policy"].requires_grad_()
    shifted = _run(inputs | {"policy": policy + 0.7}, form=form).loss
    torch.testing.assert_close(shifted, _run(inputs, form=form).loss)


@pytest.mark.parametrize("form", FORMS)
def test_equal_rewards_teach_nothing(inputs, form):
    policy = inputs["policy"].requires_grad_()
    output = _run(inputs | {"advantage": torch.zeros_like(policy)}, form=form, clip=0.1)
    assert not torch.autograd.grad(output.loss.sum(), policy)[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_permuting_groups_and_members(inputs, form):
    loss = _run(inputs, form=form, clip=0.1).loss
    torch.testing.assert_close(_run({k: v.flip(0) for k, v in inputs.items()}, form=form, clip=0.1).loss, loss.flip(0))
    torch.testing.assert_close(_run({k: v.flip(1) for k, v in inputs.items()}, form=form, clip=0.1).loss, loss)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["policy", "reference", "behaviour", "advantage"])
def test_nan_spoils_its_group_alone(inputs, form, name, clip):
    inputs[name][1, 0] = math.nan
    policy = inputs["policy"].requires_grad_()
    loss = _run(inputs, form=form, clip=clip).loss
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


def test_large_margins_stay_finite(inputs):
    for sign in (1, -1):
        policy = (sign * 1e3 * inputs["policy"]).requires_grad_()
        output = _run(inputs | {"policy": policy}, beta=5000.0, clip=0.1)
        output.loss.sum().backward()
        assert output.loss.isfinite().all() and policy.grad.isfinite().all()


def test_advantages_are_clipped(inputs):
    clipped = _run(inputs | {"advantage": inputs["advantage"].clamp(-0.3, 0.3)}, advantage_clip=None)
    torch.testing.assert_close(_run(inputs, advantage_clip=0.3).loss, clipped.loss)


def test_the_kl_is_not_clipped(inputs):
    divergence = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    output = _run(inputs | {"divergence": divergence}, kl_weight=0.5, clip=1e-9)
    torch.testing.assert_close(output.loss - _run(inputs, clip=1e-9).loss, 0.5 * divergence.mean(1))
    output.loss.sum().backward()
    torch.testing.assert_close(divergence.grad, torch.full_like(divergence, 0.5 / 4))
    with pytest.raises(ConfigError, match=r"kl_weight: is 0\.5, but no divergence was given"):
        _run(inputs, kl_weight=0.5)


def test_unknown_form_is_refused(inputs, unchecked_types):
    with pytest.raises(ConfigError, match="form: must be weighted or logistic, got 'paper'"):
        _run(inputs, form="paper")
