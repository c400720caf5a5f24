"""MaPO, DMPO, DSPO, SDPO, IPO, SimPO, CPO, f-DPO and alpha-DPO: what each of them does that the others don't."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import (
    alpha_dpo,
    alpha_dpo_baseline,
    cpo,
    diffusion_dpo,
    dmpo,
    dspo,
    f_dpo,
    ipo,
    mapo,
    sdpo,
    simpo,
)
from diffalign.objectives.mapo import _odds
from diffalign.objectives.sdpo import loser_scale


@pytest.fixture
def errors(generator):
    return torch.rand(2, 4, 2, generator=generator, dtype=torch.float64).unbind()


@pytest.fixture
def residuals(generator):
    return torch.randn(2, 4, 2, 3, 2, generator=generator, dtype=torch.float64).unbind()


def _margin(value):
    """Errors of one pair whose Diffusion-DPO margin at beta 2 is `value`; the reference's are 0."""
    return torch.tensor([[0.0, value]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)


# ---------------------------------------------------------------- MaPO


def test_mapo_starts_at_the_error_and_log_two():
    output = mapo(torch.full((1, 2), 0.3), weight=0.1, scale=1000.0, snr=0.5)
    assert output.loss.item() == pytest.approx(0.3 + 0.1 * math.log(2))


def test_odds_and_their_gradient_are_smooth_from_zero_on():
    x = torch.tensor([[0.0, 1e-12], [1e-5, 0.0999], [0.1001, 1.0], [30.0, 2000.0]], dtype=torch.float64)
    x.requires_grad_()
    odds = _odds(x)
    odds.sum().backward()
    seen = x.detach()[(x > 0) & (x < 100)]
    exact = seen / torch.expm1(seen)
    torch.testing.assert_close(odds.detach()[(x > 0) & (x < 100)], exact)
    assert odds[0, 0] == 1 and x.grad[0, 0] == -0.5
    assert odds[3, 1] == 0 and x.grad[3, 1] == 0
    assert (x.grad[:3] < 0).all()
    torch.testing.assert_close(x.grad[1, 1], x.grad[2, 0], rtol=1e-3, atol=0)


# ---------------------------------------------------------------- DMPO


def test_dmpo_is_least_at_its_target():
    target = math.log(0.99 / 0.01)
    losses = [
        dmpo(policy, reference=reference, beta=2.0, alpha=0.01).loss.item()
        for policy, reference in map(_margin, (target - 1, target, target + 1))
    ]
    assert losses[1] == pytest.approx(0, abs=1e-12)
    assert losses[0] > 1e-3 and losses[2] > 1e-3


def test_dmpo_is_the_divergence_the_long_way(errors):
    policy, reference = errors
    output = dmpo(policy, reference=reference, beta=3.0, alpha=0.2)
    p = torch.sigmoid(1.5 * ((reference - policy)[:, 0] - (reference - policy)[:, 1]))
    torch.testing.assert_close(output.loss, p * (p / 0.8).log() + (1 - p) * ((1 - p) / 0.2).log())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_dmpo_alpha_must_be_a_probability(errors, alpha):
    with pytest.raises(ConfigError, match=f"alpha: must be between 0 and 1, got {alpha:g}"):
        dmpo(errors[0], reference=errors[1], beta=1.0, alpha=alpha)


# ---------------------------------------------------------------- DSPO


def test_dspo_at_the_reference_is_the_winners_error(residuals):
    policy = residuals[0]
    output = dspo(policy, reference_residual=policy, beta=3.0, form="sd15")
    torch.testing.assert_close(output.loss, policy[:, 0].square().flatten(1).mean(1))
    assert output.metrics["drift"] == 0


def test_dspo_at_the_authors_beta_is_supervised_fine_tuning(residuals):
    output = dspo(residuals[0], reference_residual=residuals[1], beta=0.001, form="sd15")
    winner = residuals[0][:, 0].square().flatten(1).mean(1)
    torch.testing.assert_close(output.loss, winner, rtol=5e-3, atol=0)


def test_dspo_the_long_way(residuals):
    policy, reference = residuals
    square = (policy.square() - reference.square()).flatten(2).mean(2)
    z = -1.5 * (square[:, 0] - square[:, 1])
    lack = (1 - z.sigmoid())[:, None, None]
    drift = policy[:, 0] - reference[:, 0]
    expected = (policy[:, 0] - 3.0 * lack * drift).square().mean((1, 2))
    torch.testing.assert_close(dspo(policy, reference_residual=reference, beta=3.0, form="sd15").loss, expected)
    far = (lack * drift).square().mean((1, 2))
    assert (drift.square().mean((1, 2)) >= 0.1).all()
    torch.testing.assert_close(dspo(policy, reference_residual=reference, beta=3.0, form="sdxl").loss, far)


def test_dspo_sdxl_near_the_reference_is_a_squared_sigmoid(residuals):
    policy, reference = residuals[0], residuals[0] + 0.01
    output = dspo(policy, reference_residual=reference, beta=3.0, form="sdxl")
    square = (policy.square() - reference.square()).flatten(2).mean(2)
    torch.testing.assert_close(output.loss, torch.sigmoid(1.5 * (square[:, 0] - square[:, 1])) ** 2)


@pytest.mark.parametrize(("drift_square", "far"), [(0.09, False), (0.11, True), (0.9, True)])
def test_dspo_sdxl_is_far_from_a_tenth_on(residuals, drift_square, far):
    policy = residuals[0][:1]
    reference = policy.clone()
    reference[:, 0] -= drift_square**0.5
    square = (policy.square() - reference.square()).flatten(2).mean(2)
    lack = torch.sigmoid(1.5 * (square[:, 0] - square[:, 1]))
    loss = dspo(policy, reference_residual=reference, beta=3.0, form="sdxl").loss
    torch.testing.assert_close(loss, lack**2 * (drift_square if far else 1.0))


def test_dspo_sdxl_decides_pair_by_pair(residuals):
    policy, reference = residuals[0], residuals[0] + 0.01
    reference[2] += 5.0
    loss = dspo(policy, reference_residual=reference, beta=3.0, form="sdxl").loss
    for pair in range(4):
        alone = dspo(policy[[pair]], reference_residual=reference[[pair]], beta=3.0, form="sdxl").loss
        torch.testing.assert_close(loss[[pair]], alone)


def test_unknown_form_is_refused(residuals, unchecked_types):
    with pytest.raises(ConfigError, match="form: must be sd15 or sdxl, got 'sd3'"):
        dspo(residuals[0], reference_residual=residuals[1], beta=1.0, form="sd3")


# ---------------------------------------------------------------- SDPO

SAFE = {"beta": 3.0, "mu": 0.5, "scope": "pair", "inner": "diffusion_dpo", "alpha": 0.01, "form": "sd15"}


def test_sdpo_keeps_the_value_and_the_winners_gradient(residuals):
    policy, reference = residuals
    policy[:2, 1] += 2 * policy[:2, 0]  # the losers of two pairs point as their winners do
    policy[2:, 1] -= 2 * policy[2:, 0]
    policy.requires_grad_()
    scale = loser_scale(policy, mu=0.5, scope="pair")
    assert (scale < 1).tolist() == [True, True, False, False]
    loss = sdpo(policy, reference_residual=reference, **SAFE).loss
    plain = diffusion_dpo(
        policy.square().flatten(2).mean(2), reference=reference.square().flatten(2).mean(2), beta=3.0
    ).loss
    torch.testing.assert_close(loss, plain)
    guarded, free = (torch.autograd.grad(it.sum(), policy)[0] for it in (loss, plain))
    torch.testing.assert_close(guarded[:, 0], free[:, 0])
    torch.testing.assert_close(guarded[:, 1], scale[:, None, None] * free[:, 1])


def test_sdpo_leaves_the_winner_its_share(residuals):
    """A step against both branches' output gradients lowers the winner's error by at least mu of its own descent."""
    winner, loser = residuals[0].flatten(2).unbind(1)
    for mu in (0.0, 0.3, 0.9, 1.0):
        scale = loser_scale(residuals[0], mu=mu, scope="pair")
        descent = ((winner - scale[:, None] * loser) * winner).sum(1)
        assert (descent >= mu * winner.square().sum(1) - 1e-12).all()


def test_sdpo_scale_by_hand():
    residual = torch.tensor([[[1.0, 0.0], [4.0, 9.0]], [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [0.1, 0.0]]])
    torch.testing.assert_close(loser_scale(residual, mu=0.5, scope="pair"), torch.tensor([0.125, 1.0, 1.0]))
    whole = 0.5 * 3 / (4 - 1 + 0.1)
    torch.testing.assert_close(loser_scale(residual, mu=0.5, scope="batch"), torch.full((3,), whole))


@pytest.mark.parametrize("inner", ["dmpo", "dspo"])
def test_sdpo_takes_other_losses(residuals, inner):
    policy, reference = residuals
    output = sdpo(policy, reference_residual=reference, **SAFE | {"inner": inner})
    if inner == "dspo":
        plain = dspo(policy, reference_residual=reference, beta=3.0, form="sd15")
    else:
        square, frozen = (it.square().flatten(2).mean(2) for it in residuals)
        plain = dmpo(square, reference=frozen, beta=3.0, alpha=0.01)
    torch.testing.assert_close(output.loss, plain.loss)


def test_sdpo_refuses_unknown_words(residuals, unchecked_types):
    with pytest.raises(ConfigError, match="inner: must be diffusion_dpo, dmpo or dspo, got 'kto'"):
        sdpo(residuals[0], reference_residual=residuals[1], **SAFE | {"inner": "kto"})
    with pytest.raises(ConfigError, match="scope: must be pair or batch, got 'all'"):
        loser_scale(residuals[0], mu=0.5, scope="all")


# ---------------------------------------------------------------- IPO, SimPO, CPO


def test_ipo_is_least_at_one_half():
    policy, reference = _margin(0.5)
    output = ipo(policy.requires_grad_(), reference=reference, beta=2.0, unit="margin")
    output.loss.sum().backward()
    assert output.loss == 0 and not policy.grad.any()


def test_ipo_units_differ_by_half_beta_squared(errors):
    margin, error = (ipo(errors[0], reference=errors[1], beta=7.0, unit=unit).loss for unit in ("margin", "error"))
    torch.testing.assert_close(margin, error * 3.5**2)


def test_unknown_unit_is_refused(errors, unchecked_types):
    with pytest.raises(ConfigError, match="unit: must be margin or error, got 'nats'"):
        ipo(errors[0], reference=errors[1], beta=1.0, unit="nats")


def test_simpo_asks_for_a_margin():
    policy = torch.tensor([[0.2, 0.5]])
    output = simpo(policy, beta=2.0, gamma=0.3)
    assert output.loss.item() == pytest.approx(math.log(2))
    assert output.metrics["margin"].item() == pytest.approx(0.3)


def test_cpo_holds_the_winners_error_down():
    policy = torch.tensor([[0.2, 0.2]], requires_grad=True)
    cpo(policy, beta=2.0, weight=4.0).loss.sum().backward()
    torch.testing.assert_close(policy.grad, torch.tensor([[4.5, -0.5]]))


# ---------------------------------------------------------------- f-DPO


def _f(policy, reference, kind, alpha=0.5, beta=3.0):
    return f_dpo(policy, reference=reference, beta=beta, strength=1.0, f_divergence=kind, alpha=alpha).loss


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jensen_shannon", "alpha"])
def test_f_dpo_starts_at_log_two(errors, kind):
    loss = _f(errors[0], errors[0], kind)
    torch.testing.assert_close(loss, torch.full((4,), 2.0, dtype=torch.float64).log())


def test_f_dpo_alpha_goes_from_reverse_to_forward(errors):
    torch.testing.assert_close(_f(*errors, "alpha", alpha=1e-9), _f(*errors, "reverse_kl"))
    torch.testing.assert_close(_f(*errors, "alpha", alpha=1.0), _f(*errors, "forward_kl"))


@pytest.mark.parametrize("kind", ["forward_kl", "jensen_shannon", "alpha"])
def test_f_dpo_pushes_less_what_the_policy_prefers_already(kind):
    slopes = []
    for gain in (0.0, 1.0, 4.0):
        policy = torch.tensor([[-gain, -gain]], dtype=torch.float64, requires_grad=True)
        _f(policy, torch.zeros(1, 2, dtype=torch.float64), kind).sum().backward()
        slopes.append(policy.grad[0, 0].item())
    assert slopes[0] > slopes[1] > slopes[2] > 0


@pytest.mark.parametrize("kind", ["forward_kl", "alpha"])
@pytest.mark.parametrize("far", [-12.0, 12.0])
def test_f_dpo_holds_log_u_within_ten(kind, far):
    """exp(10) is 22,026: beyond it the loss is that of 10, without gradient."""

    def of(log_u):  # of the winner; the loser's is 0
        return torch.tensor([[-log_u / 1.5, 0.0]], dtype=torch.float64, requires_grad=True)

    policy, at_ten = of(far), of(math.copysign(10.0, far))
    reference = torch.zeros(1, 2, dtype=torch.float64)
    loss = _f(policy, reference, kind)
    torch.testing.assert_close(loss, _f(at_ten, reference, kind), rtol=1e-12, atol=0)
    gradient = torch.autograd.grad(loss.sum(), policy)[0]
    assert gradient[0, 0] == 0 and (far > 0 or gradient[0, 1] < 0)


def test_f_dpo_refuses_unknown_words(errors, unchecked_types):
    with pytest.raises(ConfigError, match=r"f_divergence: must be reverse_kl, .*, got 'hellinger'"):
        _f(*errors, "hellinger")
    with pytest.raises(ConfigError, match=r"alpha: must be in \(0, 1\], got 2"):
        _f(*errors, "alpha", alpha=2.0)


# ---------------------------------------------------------------- alpha-DPO


def _alpha(policy, reference, order, baseline=1.0, adaptive=False):
    baseline = torch.tensor(baseline, dtype=torch.float64)
    return alpha_dpo(policy, reference=reference, baseline=baseline, beta=2.0, alpha=order, adaptive=adaptive)


@pytest.mark.parametrize("order", [0.1, 0.5, 0.9, 0.9999])
def test_alpha_dpo_is_the_published_form(errors, order):
    policy, reference = errors
    p = torch.sigmoid((reference - policy)[:, 0] - (reference - policy)[:, 1])
    long_way = (p**order - (1 - order) - order * p) / (order * (order - 1))
    torch.testing.assert_close(_alpha(policy, reference, order).loss, long_way, rtol=1e-9, atol=1e-12)


def test_alpha_dpo_limits(errors):
    policy, reference = errors
    p = torch.sigmoid((reference - policy)[:, 0] - (reference - policy)[:, 1])
    torch.testing.assert_close(_alpha(policy, reference, 0.9999).loss, p * p.log() - p + 1, rtol=1e-3, atol=0)
    torch.testing.assert_close(_alpha(policy, reference, 0.0001).loss, -p.log() + p - 1, rtol=1e-3, atol=0)


def test_alpha_dpo_in_single_precision(errors):
    """The published form loses three digits at the authors' order: a difference of nearly equal numbers over 1e-4."""
    exact = _alpha(*errors, 0.9999).loss
    single = alpha_dpo(
        errors[0].float(),
        reference=errors[1].float(),
        baseline=torch.tensor(1.0),
        beta=2.0,
        alpha=0.9999,
        adaptive=False,
    ).loss
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


def test_alpha_dpo_ignores_pairs_that_are_far_on_the_wrong_side():
    def slope(margin):
        policy, reference = _margin(margin)
        return torch.autograd.grad(_alpha(policy.requires_grad_(), reference, 0.9999).loss.sum(), policy)[0][0, 0]

    assert slope(-10.0) < 0.01 * slope(0.0)


def test_alpha_dpo_order_follows_the_batch(errors):
    policy = errors[0].requires_grad_()
    baseline = alpha_dpo_baseline(policy, reference=errors[1], beta=2.0)
    assert baseline.shape == () and not baseline.requires_grad
    margin = (errors[1] - policy.detach()) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(baseline, margin.sigmoid().mean())
    output = _alpha(*errors, 0.9, baseline.item(), adaptive=True)
    torch.testing.assert_close(output.metrics["order"], 0.9 * baseline)
    torch.testing.assert_close(output.loss, _alpha(*errors, 0.9 * baseline.item()).loss)


def test_alpha_dpo_baseline_leaves_a_nan_to_its_own_pair(errors):
    policy = errors[0].clone()
    policy[1, 0] = torch.nan
    kept = [0, 2, 3]
    found = alpha_dpo_baseline(policy, reference=errors[1], beta=2.0)
    torch.testing.assert_close(found, alpha_dpo_baseline(policy[kept], reference=errors[1][kept], beta=2.0))


def test_alpha_dpo_has_no_gradient_through_the_baseline(errors):
    policy = errors[0].requires_grad_()
    attached = (errors[1] - policy).sigmoid().mean()
    options = {"reference": errors[1], "beta": 2.0, "alpha": 0.9, "adaptive": True}
    gradients = [
        torch.autograd.grad(alpha_dpo(policy, baseline=baseline, **options).loss.sum(), policy)[0]
        for baseline in (attached, attached.detach())
    ]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_alpha_dpo_stays_finite_at_the_ends(errors, baseline):
    policy = errors[0].requires_grad_()
    output = _alpha(policy, errors[1], 0.999999, baseline, adaptive=True)
    output.loss.sum().backward()
    assert output.loss.isfinite().all() and policy.grad.isfinite().all()


def test_alpha_dpo_order_must_be_between_its_poles(errors):
    with pytest.raises(ConfigError, match="alpha: must be between 0 and 1, got 1"):
        _alpha(*errors, 1.0)
