"""DRAGON's two contrasts: the losses they are, groups on one side, members in neither set, gradients."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo, diffusion_kto, dragon

OPTIONS = {"contrast": "dpo", "beta": 3.0, "desirable": 1.0, "undesirable": 1.0}
LABEL = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, -1.0, -1.0, 1.0], [1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
BASELINE = torch.tensor(0.05, dtype=torch.float64)
every = pytest.mark.parametrize("contrast", ["dpo", "kto"])


def _dragon(policy, reference, label, baseline=BASELINE, **options):
    return dragon(policy, reference=reference, label=label, baseline=baseline, **(OPTIONS | options))


@pytest.fixture
def errors(generator):
    return torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)


def test_dpo_on_pairs_is_diffusion_dpo(errors):
    policy, reference = errors[:, :, :2]
    dpo = diffusion_dpo(policy, reference=reference, beta=3.0)
    there = _dragon(policy, reference, torch.tensor([[1.0, -1.0]] * 3, dtype=torch.float64), baseline=None)
    back = _dragon(policy.flip(1), reference.flip(1), torch.tensor([[-1.0, 1.0]] * 3, dtype=torch.float64))
    for output in (there, back):
        torch.testing.assert_close(output.loss, dpo.loss)
        torch.testing.assert_close(output.metrics["margin"], dpo.metrics["margin"])
        torch.testing.assert_close(output.metrics["accuracy"].double(), dpo.metrics["pair_accuracy"])


def test_kto_by_hand():
    policy, reference = torch.tensor([[0.4, 0.6]]), torch.tensor([[0.5, 0.5]])
    label, baseline = torch.tensor([[1.0, -1.0]]), torch.tensor(0.02)
    output = _dragon(policy, reference, label, baseline, contrast="kto", desirable=2.0, undesirable=0.5)
    good, bad = torch.tensor([3 * (0.1 - 0.02), -3 * (-0.1 - 0.02)]).neg().sigmoid()
    torch.testing.assert_close(output.loss, ((2 * good + 0.5 * bad) / 2)[None])


def test_dpo_contrasts_the_means_of_the_sets(errors):
    policy, reference = errors
    gain = reference - policy
    apart = torch.stack(
        [
            gain[0, [0, 2]].mean() - gain[0, [1, 3]].mean(),
            gain[1, 3] - gain[1, :3].mean(),
            gain[2, 0] - gain[2, 2],
        ]
    )
    torch.testing.assert_close(_dragon(policy, reference, LABEL).loss, torch.nn.functional.softplus(-1.5 * apart))


@every
def test_gradient_is_right(contrast, errors):
    policy, reference = errors
    policy.requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: _dragon(seen, reference, LABEL, contrast=contrast).loss, policy)
    output = _dragon(policy, reference, LABEL, contrast=contrast)
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    assert torch.equal(gradient.sign(), LABEL)  # descent lowers the positives' errors, raises the negatives'
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


@every
def test_order_of_members_and_groups_does_not_matter(contrast, errors):
    policy, reference = errors
    loss = _dragon(policy, reference, LABEL, contrast=contrast).loss
    members = _dragon(policy.flip(1), reference.flip(1), LABEL.flip(1), contrast=contrast).loss
    torch.testing.assert_close(members, loss)
    groups = _dragon(policy.flip(0), reference.flip(0), LABEL.flip(0), contrast=contrast).loss
    torch.testing.assert_close(groups, loss.flip(0))


def test_groups_on_one_side_have_no_dpo_contrast(errors):
    policy, reference = errors
    policy.requires_grad_()
    label = LABEL.clone()
    label[1] = 1.0
    output = _dragon(policy, reference, label)
    assert output.loss[1] == 0 and output.metrics["one_sided"] == 1 / 3
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[1].any()
    both = _dragon(policy[[0, 2]], reference[[0, 2]], label[[0, 2]])
    torch.testing.assert_close(output.metrics["margin"], both.metrics["margin"])
    alone = _dragon(policy, reference, torch.ones_like(label))
    assert not alone.loss.any() and alone.metrics["margin"] == 0


def test_kto_takes_sets_of_any_size(errors):
    policy, reference = errors
    singles = _dragon(policy.reshape(-1, 1), reference.reshape(-1, 1), LABEL.reshape(-1, 1), contrast="kto").loss
    groups = _dragon(policy, reference, LABEL, contrast="kto").loss
    torch.testing.assert_close(groups[:2], singles.reshape(3, 4)[:2].mean(1))
    torch.testing.assert_close(groups[2], singles.reshape(3, 4)[2, [0, 2]].mean())  # label 0 is in neither set


@every
@pytest.mark.parametrize("where", [0, 1])
def test_a_nan_spoils_its_group_alone(contrast, where, errors):
    errors[where, 1, 2] = torch.nan
    policy = errors[0].requires_grad_()
    loss = _dragon(policy, errors[1], LABEL, contrast=contrast).loss
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


@every
def test_a_member_of_neither_set_is_left_out_whatever_its_error(contrast, errors):
    clean = _dragon(*errors, LABEL, contrast=contrast)
    errors[:, 2, 1], errors[1, 2, 3] = torch.nan, torch.inf  # label 0
    policy = errors[0].requires_grad_()
    output = _dragon(policy, errors[1], LABEL, contrast=contrast)
    torch.testing.assert_close(output.loss, clean.loss)
    for name, value in clean.metrics.items():
        torch.testing.assert_close(output.metrics[name], value)
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[2, [1, 3]].any()


@every
@pytest.mark.parametrize("member", [0, 2])
def test_a_label_that_is_nan_is_not_a_missing_one(contrast, member, errors):
    label = LABEL.clone()
    label[1, member] = torch.nan
    policy = errors[0].requires_grad_()
    loss = _dragon(policy, errors[1], label, contrast=contrast).loss
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


def test_kto_is_diffusion_kto(errors):
    settings = {"beta": 3.0, "desirable": 2.0, "undesirable": 0.5}
    plain = diffusion_kto(errors[0], reference=errors[1], label=LABEL, baseline=BASELINE, **settings)
    torch.testing.assert_close(_dragon(*errors, LABEL, contrast="kto", **settings).loss, plain.loss)


def test_no_gradient_goes_through_the_baseline(errors):
    policy, reference = errors
    policy.requires_grad_()
    attached = (reference - policy).mean()
    gradients = [
        torch.autograd.grad(_dragon(policy, reference, LABEL, baseline, contrast="kto").loss.sum(), policy)[0]
        for baseline in (attached, attached.detach())
    ]
    assert torch.equal(*gradients)


def test_refuses_what_it_does_not_know(errors, unchecked_types):
    with pytest.raises(ConfigError, match="contrast: must be dpo or kto, got 'ipo'"):
        _dragon(*errors, LABEL, contrast="ipo")
    with pytest.raises(ConfigError, match="contrast: kto needs `baseline`"):
        _dragon(*errors, LABEL, None, contrast="kto")
