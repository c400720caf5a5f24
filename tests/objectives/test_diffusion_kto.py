"""Diffusion-KTO: single samples against the batch's usual gain."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_kto, kto_baseline

SETTINGS = {"beta": 3.0, "desirable": 1.0, "undesirable": 1.0}
ZERO = torch.tensor(0.0, dtype=torch.float64)
LABEL = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)


@pytest.fixture
def errors(generator):
    return torch.rand(2, 4, 1, generator=generator, dtype=torch.float64).unbind()


def _kto(policy, reference, label=LABEL, baseline=ZERO, **settings):
    return diffusion_kto(policy, reference=reference, label=label, baseline=baseline, **SETTINGS | settings)


def test_starts_at_one_half(errors):
    output = _kto(errors[0], errors[0])
    torch.testing.assert_close(output.loss, torch.full((4,), 0.5, dtype=torch.float64))
    assert output.metrics["margin"] == 0 and output.metrics["label_accuracy"] == 0


def test_by_hand():
    output = _kto(torch.tensor([[0.2]]), torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor(0.1))
    assert output.loss.item() == pytest.approx(1 - 1 / (1 + math.exp(0.6)))
    assert output.metrics["baseline"].item() == pytest.approx(0.1)


def test_liked_samples_are_pulled_and_disliked_ones_pushed(errors):
    policy = errors[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda it: _kto(it, errors[1]).loss, policy)
    gradient = torch.autograd.grad(_kto(policy, errors[1]).loss.sum(), policy)[0]
    assert (gradient * LABEL > 0).all()


def test_weights_are_by_class(errors):
    loss, weighted = _kto(*errors).loss, _kto(*errors, desirable=0.1, undesirable=2.0).loss
    torch.testing.assert_close(weighted, loss * torch.tensor([0.1, 0.1, 2.0, 2.0], dtype=torch.float64))


def test_turning_gains_and_labels_around_keeps_the_loss(errors):
    torch.testing.assert_close(_kto(*errors).loss, _kto(errors[1], errors[0], -LABEL).loss)


def test_members_are_averaged(errors):
    wide = _kto(errors[0].reshape(2, 2), errors[1].reshape(2, 2), LABEL.reshape(2, 2))
    torch.testing.assert_close(wide.loss, _kto(*errors).loss.reshape(2, 2).mean(1))


def test_a_bad_number_spoils_its_own_group_alone(errors):
    policy = errors[0].clone()
    policy[1] = float("nan")
    label = LABEL.clone()
    label[2] = float("nan")
    policy.requires_grad_()
    loss = _kto(policy, errors[1], label).loss
    loss.sum().backward()
    assert loss.isnan().tolist() == [False, True, True, False]
    assert policy.grad[[0, 3]].isfinite().all()


@pytest.fixture
def half_labelled(errors):
    """One group of 4 of which two are labelled; the others' errors are far off, and one is NaN."""
    policy, reference = (it.reshape(1, 4).clone() for it in errors)
    policy[0, 2], policy[0, 3] = torch.nan, 5.0
    return policy.requires_grad_(), reference, torch.tensor([[1.0, -1.0, 0.0, 0.0]], dtype=torch.float64)


def test_members_without_a_label_are_left_out(half_labelled):
    policy, reference, label = half_labelled
    whole = _kto(policy, reference, label, torch.tensor(0.1, dtype=torch.float64))
    pair = _kto(policy[:, :2], reference[:, :2], label[:, :2], torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(whole.loss, pair.loss)  # the mean over those that have a label
    for name, value in pair.metrics.items():
        torch.testing.assert_close(whole.metrics[name], value)
    gradient = torch.autograd.grad(whole.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[:, 2:].any() and gradient[:, :2].all()


def test_label_accuracy_counts_the_labelled_alone(half_labelled):
    _, reference, label = half_labelled
    right = reference.clone()
    right[0, :2] += torch.tensor([-0.1, 0.1], dtype=torch.float64)  # the liked one gained, the other lost
    assert _kto(right, reference, label).metrics["label_accuracy"] == 1


def test_a_group_without_labels_has_no_loss(half_labelled):
    policy, reference, label = half_labelled
    output = _kto(policy, reference, torch.zeros_like(label), torch.tensor(torch.nan, dtype=torch.float64))
    assert output.loss.tolist() == [0.0] and output.metrics["margin"] == output.metrics["label_accuracy"] == 0


@pytest.mark.parametrize("offset", ["batch", "classes", "mismatched"])
def test_the_baseline_is_of_the_labelled(half_labelled, offset):
    policy, reference, label = half_labelled
    found = kto_baseline(policy, reference=reference, label=label, offset=offset)
    alone = kto_baseline(policy[:, :2], reference=reference[:, :2], label=label[:, :2], offset=offset)
    torch.testing.assert_close(found, alone)
    nobody = kto_baseline(policy, reference=reference, label=torch.zeros_like(label), offset=offset)
    assert nobody == 0


@pytest.mark.parametrize("offset", ["batch", "classes", "mismatched"])
def test_a_nan_does_not_reach_other_groups_through_the_baseline(offset):
    """A labelled NaN spoils its own loss (above), so the baseline need not spoil all of them."""
    policy, reference, label = -GAIN.clone(), torch.zeros_like(GAIN), LABEL.clone()
    policy[1], label[2] = torch.nan, torch.nan
    found = kto_baseline(policy, reference=reference, label=label, offset=offset)
    kept = [0, 3]
    assert found == kto_baseline(policy[kept], reference=reference[kept], label=label[kept], offset=offset)


def test_no_gradient_goes_through_the_baseline(errors):
    policy = errors[0].requires_grad_()
    attached = (errors[1] - policy).mean()
    gradients = [
        torch.autograd.grad(_kto(policy, errors[1], baseline=baseline).loss.sum(), policy)[0]
        for baseline in (attached, attached.detach())
    ]
    assert torch.equal(*gradients)


def test_large_gains_stay_finite():
    policy = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = _kto(policy, torch.zeros(2, 1), torch.tensor([[1.0], [1.0]]), torch.tensor(0.0)).loss
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([1.0, 0.0]))
    assert policy.grad.isfinite().all()


GAIN = torch.tensor([[0.3], [0.1], [-0.8], [0.2]], dtype=torch.float64)


@pytest.mark.parametrize(("offset", "expected"), [("batch", 0.0), ("classes", (0.2 - 0.3) / 2), ("mismatched", -0.05)])
def test_baselines(offset, expected):
    policy = (-GAIN).requires_grad_()
    found = kto_baseline(policy, reference=torch.zeros_like(GAIN), label=LABEL, offset=offset)
    assert found.shape == () and not found.requires_grad
    assert found.item() == pytest.approx(expected)


def test_the_batch_baseline_is_the_mean_where_that_is_positive():
    found = kto_baseline(-GAIN.abs(), reference=torch.zeros_like(GAIN), label=LABEL, offset="batch")
    assert found.item() == pytest.approx(0.35)


def test_an_absent_class_counts_as_zero():
    found = kto_baseline(-GAIN, reference=torch.zeros_like(GAIN), label=torch.ones_like(LABEL), offset="classes")
    assert found.item() == pytest.approx(-0.025)


def test_unknown_offset_is_refused(unchecked_types):
    with pytest.raises(ConfigError, match="offset: must be batch, classes or mismatched, got 'none'"):
        kto_baseline(GAIN, reference=GAIN, label=LABEL, offset="none")
