"""Diffusion-DPO and Flow-DPO: values by hand, gradients, symmetries and the rounding pitfall."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from diffalign.config.objectives import DiffusionDPOParams, FlowDPOParams
from diffalign.exceptions import ConfigError, ShapeError
from diffalign.objectives import diffusion_dpo, flow_dpo

BETA = 3.0
T = torch.tensor([[0.2, 0.2], [0.5, 0.5], [0.9, 0.9]])


def _constant(policy, reference, beta=BETA):
    return flow_dpo(policy, reference=reference, t=T.to(policy.dtype), beta=beta, schedule="constant")


def _scheduled(policy, reference, beta=BETA):
    return flow_dpo(policy, reference=reference, t=T.to(policy.dtype), beta=beta, schedule="one_minus_t_sq")


def _diffusion(policy, reference, beta=BETA):
    return diffusion_dpo(policy, reference=reference, beta=beta)


every = pytest.mark.parametrize("objective", [_diffusion, _constant, _scheduled])


@pytest.fixture
def errors(generator):
    return torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)


@every
def test_starts_at_log_two(objective, errors):
    output = objective(errors[0], errors[0])
    torch.testing.assert_close(output.loss, torch.full((3,), 2.0, dtype=torch.float64).log())
    assert output.metrics["margin"] == 0
    assert output.metrics["pair_accuracy"] == 0  # a tie is no win, as in the authors' code


@every
def test_loss_is_per_group_and_metrics_are_detached_scalars(objective, errors):
    output = objective(errors[0].requires_grad_(), errors[1])
    assert output.loss.shape == (3,) and output.loss.requires_grad
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


@every
def test_gradient_is_right_and_none_goes_astray(objective, errors):
    policy, reference = errors[0].requires_grad_(), errors[1]
    assert torch.autograd.gradcheck(lambda seen: objective(seen, reference).loss, policy)
    gradient = torch.autograd.grad(objective(policy, reference).loss.sum(), policy)[0]
    assert (gradient[:, 0] > 0).all() and (gradient[:, 1] < 0).all()  # descent: winner's error down, loser's up
    torch.testing.assert_close(gradient[:, 0], -gradient[:, 1])


@every
def test_swapping_members_flips_the_margin(objective, errors):
    policy, reference = errors
    there, back = objective(policy, reference), objective(policy.flip(1), reference.flip(1))
    torch.testing.assert_close(there.metrics["margin"], -back.metrics["margin"])
    # -log s(m) + log s(-m) = -m
    torch.testing.assert_close((there.loss - back.loss).mean(), -there.metrics["margin"])
    assert there.metrics["pair_accuracy"] + back.metrics["pair_accuracy"] == 1


@pytest.mark.parametrize("schedule", ["constant", "one_minus_t_sq"])
def test_permuting_groups_permutes_the_loss(schedule, errors):
    order = torch.tensor([2, 0, 1])
    options = {"beta": BETA, "schedule": schedule}
    loss = flow_dpo(errors[0], reference=errors[1], t=T, **options).loss
    moved = flow_dpo(errors[0][order], reference=errors[1][order], t=T[order], **options).loss
    torch.testing.assert_close(moved, loss[order])
    plain = diffusion_dpo(errors[0], reference=errors[1], beta=BETA).loss
    torch.testing.assert_close(
        diffusion_dpo(errors[0][order], reference=errors[1][order], beta=BETA).loss, plain[order]
    )


@every
def test_a_batch_is_its_groups(objective, errors):
    """No group's loss depends on another's."""
    loss = objective(errors[0], errors[1]).loss
    for group in range(3):
        moved = torch.rand_like(errors[0])
        moved[group] = errors[0][group]
        torch.testing.assert_close(objective(moved, errors[1]).loss[group], loss[group])


def test_beta_may_differ_between_pairs(errors):
    beta = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    loss = diffusion_dpo(errors[0], reference=errors[1], beta=beta).loss
    for pair in range(3):
        alone = diffusion_dpo(errors[0][pair : pair + 1], reference=errors[1][pair : pair + 1], beta=beta[pair].item())
        torch.testing.assert_close(loss[pair : pair + 1], alone.loss)


def test_accuracy_counts_pairs(errors):
    reference = torch.full((4, 2), 0.5)
    policy = torch.tensor([[0.4, 0.5], [0.5, 0.6], [0.6, 0.5], [0.5, 0.5]])  # better, better, worse, tied
    assert diffusion_dpo(policy, reference=reference, beta=1.0).metrics["pair_accuracy"] == 0.5


def test_large_margins_stay_finite():
    policy = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    output = diffusion_dpo(policy, reference=torch.full((2, 2), 0.5), beta=5000.0)
    output.loss.sum().backward()
    torch.testing.assert_close(output.loss, torch.tensor([0.0, 2500.0]))
    assert policy.grad.isfinite().all()


def test_why_errors_are_never_half_precision():
    """0.1234 and 0.1235 are one number in bfloat16: the margin of 0.25 is lost. So `denoising_errors` keeps float32."""
    policy, reference = torch.tensor([[0.1234, 0.1235]]), torch.full((1, 2), 0.1235)
    margin = diffusion_dpo(policy, reference=reference, beta=5000.0).metrics["margin"]
    assert margin.item() == pytest.approx(0.25, rel=1e-4)
    assert diffusion_dpo(policy.bfloat16(), reference=reference.bfloat16(), beta=5000.0).metrics["margin"] == 0


# ---------------------------------------------------------------- the other losses of the margin

LOSSES = [("hinge", 0.0), ("sigmoid", 0.1), ("robust", 0.1)]


@pytest.mark.parametrize(("loss", "smoothing"), LOSSES)
def test_gradients_of_the_other_losses(loss, smoothing, errors):
    policy = errors[0].requires_grad_()

    def of(seen):
        return diffusion_dpo(seen, reference=errors[1], beta=1.0, loss=loss, label_smoothing=smoothing)  # margins < 1

    assert torch.autograd.gradcheck(lambda seen: of(seen).loss, policy)
    gradient = torch.autograd.grad(of(policy).loss.sum(), policy)[0]
    assert (gradient[:, 0] > 0).all() and (gradient[:, 1] < 0).all()
    plain = _diffusion(policy, errors[1], beta=1.0)
    for name, value in of(policy).metrics.items():
        torch.testing.assert_close(value, plain.metrics[name])


def _of_margin(margin, loss, smoothing):
    policy = torch.tensor([[0.0, margin]], dtype=torch.float64)
    output = diffusion_dpo(policy, reference=torch.zeros_like(policy), beta=2.0, loss=loss, label_smoothing=smoothing)
    return output.loss.item()


def test_hinge_lets_go_at_one():
    assert [_of_margin(margin, "hinge", 0.0) for margin in (-1.0, 0.0, 0.75, 1.0, 9.0)] == [2.0, 1.0, 0.25, 0.0, 0.0]


def test_smoothed_labels_want_a_finite_margin():
    """cDPO is least where the implied preference is 1 - s."""
    target = math.log(0.9 / 0.1)
    there, short, beyond = (_of_margin(target + step, "sigmoid", 0.1) for step in (0.0, -0.5, 0.5))
    assert there < short and there < beyond
    assert there == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


@pytest.mark.parametrize("margin", [-3.0, 0.2, 2.0])
def test_robust_is_unbiased(margin):
    """Its mean over labels that are wrong with probability s is the loss of the right label."""
    right, wrong = _of_margin(margin, "robust", 0.2), _of_margin(-margin, "robust", 0.2)
    assert 0.8 * right + 0.2 * wrong == pytest.approx(_of_margin(margin, "sigmoid", 0.0))


def test_flow_dpo_shares_them(errors):
    options = {"beta": BETA, "loss": "robust", "label_smoothing": 0.3}
    flow = flow_dpo(errors[0], reference=errors[1], t=T, schedule="constant", **options)
    torch.testing.assert_close(flow.loss, diffusion_dpo(errors[0], reference=errors[1], **options).loss)


@pytest.mark.parametrize(("loss", "smoothing"), LOSSES)
def test_a_bad_number_spoils_its_pair_alone_in_the_other_losses(loss, smoothing, errors):
    policy = errors[0].clone()
    policy[1, 0] = torch.nan
    found = diffusion_dpo(policy, reference=errors[1], beta=BETA, loss=loss, label_smoothing=smoothing).loss
    assert found.isnan().tolist() == [False, True, False]


WRONG = [
    ("ipo", 0.0, "loss: must be sigmoid, hinge or robust, got 'ipo'"),
    ("robust", 0.0, "label_smoothing: must be > 0 with loss: robust, got 0"),
    ("hinge", 0.1, r"label_smoothing: must be 0 with loss: hinge, got 0\.1"),
    ("sigmoid", 0.5, r"label_smoothing: must be .*< 0\.5, got 0\.5"),
    ("sigmoid", -0.1, r"label_smoothing: must be >= 0.*, got -0\.1"),
]


@pytest.mark.parametrize(("loss", "smoothing", "message"), WRONG)
def test_losses_that_are_none_are_refused(loss, smoothing, message, errors, unchecked_types):
    with pytest.raises(ConfigError, match=message):
        diffusion_dpo(errors[0], reference=errors[1], beta=1.0, loss=loss, label_smoothing=smoothing)


@pytest.mark.parametrize("params", [DiffusionDPOParams, FlowDPOParams])
def test_so_they_are_in_a_config(params):
    for loss, smoothing, _ in WRONG[1:]:
        with pytest.raises(ValidationError, match="label_smoothing"):
            params(loss=loss, label_smoothing=smoothing)
    with pytest.raises(ValidationError, match="must be > 0 with loss: robust, got 0"):
        params(loss="robust")
    assert params(loss="robust", label_smoothing=0.1).label_smoothing == 0.1


def test_unknown_schedule_is_refused(errors, unchecked_types):
    with pytest.raises(ConfigError, match="schedule: must be constant or one_minus_t_sq, got 'linear'"):
        flow_dpo(errors[0], reference=errors[1], t=T, beta=1.0, schedule="linear")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("policy", "reference"), [((8, 3), (8, 3)), ((8,), (8,)), ((8, 2), (4, 2))])
def test_shapes_that_are_no_pairs(policy, reference):
    with pytest.raises(ShapeError, match=r"must be errors \[pairs, 2\], the preferred member first; got \[8"):
        diffusion_dpo(torch.rand(policy), reference=torch.rand(reference), beta=1.0)
