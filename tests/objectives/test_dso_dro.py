"""DSO's direct reward optimisation: the pair and the signed form, and the guard against its missing bound."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import ShapeError
from diffalign.objectives import dso_dro

LABEL = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)


def _dro(policy, label=None, max_bad_error=None, max_bad_ratio=None, bad_weight=1.0):
    return dso_dro(policy, label=label, max_bad_error=max_bad_error, max_bad_ratio=max_bad_ratio, bad_weight=bad_weight)


def test_pair_by_hand():
    policy = torch.tensor([[0.3, 0.5], [0.6, 0.4]], requires_grad=True)
    output = _dro(policy)
    torch.testing.assert_close(output.loss, torch.tensor([-0.2, 0.2]))
    torch.testing.assert_close(output.metrics["good_error"], torch.tensor(0.45))
    torch.testing.assert_close(output.metrics["bad_error"], torch.tensor(0.45))
    output.loss.sum().backward()
    assert torch.equal(policy.grad, torch.tensor([[1.0, -1.0]] * 2))
    assert not any(value.requires_grad or value.shape for value in output.metrics.values())


def test_swapping_the_pair_changes_the_sign():
    policy = torch.rand(4, 2)
    torch.testing.assert_close(_dro(policy.flip(1)).loss, -_dro(policy).loss)


def test_signed_form_is_half_the_pair_form(generator):
    policy = torch.rand(3, 2, generator=generator)
    torch.testing.assert_close(2 * _dro(policy, torch.tensor([[1.0, -1.0]] * 3)).loss, _dro(policy).loss)


def test_signed_form_takes_any_group(generator):
    policy = torch.rand(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda seen: _dro(seen, LABEL).loss, policy)
    output = _dro(policy, LABEL)
    torch.testing.assert_close(output.loss, (LABEL * policy).mean(1))
    torch.testing.assert_close(output.metrics["good_error"], policy[LABEL > 0].mean().detach())
    torch.testing.assert_close(output.metrics["bad_error"], policy[LABEL < 0].mean().detach())
    torch.testing.assert_close(_dro(policy.flip(1), LABEL.flip(1)).loss, output.loss)
    torch.testing.assert_close(_dro(policy.flip(0), LABEL.flip(0)).loss, output.loss.flip(0))
    only_good = _dro(policy[:, :1], torch.ones(2, 1, dtype=torch.float64))
    assert only_good.metrics["bad_error"] == 0 and torch.equal(only_good.loss, policy[:, 0])


def test_guard_stops_pushing_the_bad_beyond_the_bound():
    policy = torch.tensor([[0.3, 0.9], [0.9, 0.4]], requires_grad=True)
    output = _dro(policy, max_bad_error=0.5)
    torch.testing.assert_close(output.loss, torch.tensor([0.3 - 0.5, 0.9 - 0.4]))
    output.loss.sum().backward()
    assert torch.equal(policy.grad, torch.tensor([[1.0, 0.0], [1.0, -1.0]]))  # the good one is pulled in at any error
    assert output.metrics["clamped_share"] == 0.5
    torch.testing.assert_close(output.metrics["bad_error"], torch.tensor(0.65))  # as it is, not as it counts
    assert _dro(policy).metrics["clamped_share"] == 0
    far = torch.tensor([[0.3, 1e30]])
    assert _dro(far, max_bad_error=2.0).loss >= -2.0


@pytest.mark.parametrize("max_bad_error", [None, 0.5])
def test_a_nan_spoils_its_group_alone(max_bad_error):
    policy = torch.tensor([[0.3, 0.9], [0.9, torch.nan], [0.1, 0.2]], requires_grad=True)
    loss = _dro(policy, max_bad_error=max_bad_error).loss
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


@pytest.mark.parametrize("max_bad_error", [None, 0.5])
def test_members_without_a_label_are_left_out(max_bad_error):
    policy = torch.tensor([[0.3, torch.nan, 0.9, torch.inf], [0.2, 0.4, torch.nan, 7.0]], requires_grad=True)
    label = torch.tensor([[1.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    output = _dro(policy, label, max_bad_error)
    few = _dro(policy[:1, [0, 2]], label[:1, [0, 2]], max_bad_error)
    torch.testing.assert_close(output.loss, torch.cat([few.loss, torch.zeros(1)]))  # the mean over the labelled
    for name, value in few.metrics.items():
        torch.testing.assert_close(output.metrics[name], value)
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[label == 0].any()


def test_a_label_that_is_nan_spoils_its_group_alone():
    policy, label = torch.rand(3, 2), torch.tensor([[1.0, -1.0], [torch.nan, 1.0], [0.0, 1.0]])
    assert _dro(policy, label).loss.isnan().tolist() == [False, True, False]


def test_without_labels_it_takes_pairs():
    with pytest.raises(ShapeError, match=r"policy errors have shape \(2, 3\); without `label` dso_dro takes pairs"):
        _dro(torch.rand(2, 3))


def test_the_bound_by_the_good_members_goes_by_no_scale():
    policy = torch.tensor([[1.0, 2.0], [3.0, 12.0]], requires_grad=True)
    for scale in (1.0, 0.01):
        output = _dro(scale * policy, max_bad_ratio=3.0)
        torch.testing.assert_close(output.loss.detach() / scale, torch.tensor([1.0 - 2.0, 3.0 - 9.0]))
        (gradient,) = torch.autograd.grad(output.loss.sum() / scale, policy)
        assert gradient.tolist() == [[1.0, -1.0], [1.0, 0.0]]  # none through the bound either
    assert _dro(policy, torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]), max_bad_ratio=3.0).metrics["clamped_share"] == 0
    spoilt = _dro(torch.tensor([[torch.nan, 2.0], [3.0, 9.5]]), max_bad_ratio=3.0).loss
    assert spoilt[0].isnan() and spoilt[1] == 3.0 - 9.0


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75])
def test_with_less_weight_on_the_bad_the_pull_has_an_end(weight):
    """One x_t for both: the least loss is at good + a / (1 - a) (good - bad), worked out by hand."""
    good, bad = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.5, 0.5, 1.0])
    prediction = torch.zeros(3, requires_grad=True)
    for _ in range(400):
        errors = torch.stack([(prediction - target).square().mean() for target in (good, bad)])[None]
        (gradient,) = torch.autograd.grad(_dro(errors, bad_weight=weight).loss.sum(), prediction)
        prediction = (prediction - gradient).detach().requires_grad_()
    torch.testing.assert_close(prediction.detach(), good + weight / (1 - weight) * (good - bad))


def test_the_weight_counts_for_labelled_members_too():
    policy = torch.tensor([[1.0, 2.0, 4.0]])
    labelled = _dro(policy, torch.tensor([[1.0, -1.0, -1.0]]), bad_weight=0.5)
    assert labelled.loss.item() == pytest.approx((1.0 - 0.5 * 6.0) / 3)
    assert _dro(policy[:, :2], bad_weight=0.5).loss.item() == pytest.approx(1.0 - 0.5 * 2.0)
