"""What the objectives on preference pairs have in common: gradients, groups on their own, and numbers gone bad."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from diffalign.objectives import (
    alpha_dpo,
    cpo,
    diffusion_dpo,
    diffusion_dro,
    dmpo,
    dspo,
    f_dpo,
    ipo,
    mapo,
    sdpo,
    simpo,
    smpo,
)

PAIRS = 5
BASELINE = torch.tensor(0.6, dtype=torch.float64)
PREFERENCE = torch.linspace(0.55, 0.95, PAIRS, dtype=torch.float64)
F = {"beta": 3.0, "strength": 2.0, "alpha": 0.5}
SDPO = {"beta": 3.0, "mu": 0.9, "alpha": 0.01, "form": "sd15"}

# name -> the objective as a function of (policy, reference, rows): errors [pairs, 2], or residuals [pairs, 2, 3]
ON_ERRORS = {
    "smpo": lambda policy, reference, rows: smpo(
        policy, reference=reference, preference=PREFERENCE[rows], beta=3.0, scale=10.0
    ),
    "diffusion_dro": lambda policy, reference, rows: diffusion_dro(policy, reference=reference, margin=2.0),
    "mapo": lambda policy, reference, rows: mapo(policy, weight=0.1, scale=10.0, snr=0.5),
    "dmpo": lambda policy, reference, rows: dmpo(policy, reference=reference, beta=3.0, alpha=0.01),
    "ipo": lambda policy, reference, rows: ipo(policy, reference=reference, beta=0.5, unit="margin"),
    "ipo_error": lambda policy, reference, rows: ipo(policy, reference=reference, beta=0.5, unit="error"),
    "simpo": lambda policy, reference, rows: simpo(policy, beta=3.0, gamma=0.5),
    "cpo": lambda policy, reference, rows: cpo(policy, beta=3.0, weight=1.0),
    "alpha_dpo": lambda policy, reference, rows: alpha_dpo(
        policy, reference=reference, baseline=BASELINE, beta=3.0, alpha=0.9999, adaptive=True
    ),
    **{
        f"f_dpo_{kind}": lambda policy, reference, rows, kind=kind: f_dpo(
            policy, reference=reference, f_divergence=kind, **F
        )
        for kind in ("reverse_kl", "forward_kl", "jensen_shannon", "alpha")
    },
}
ON_RESIDUALS = {
    **{
        f"dspo_{form}": lambda policy, reference, rows, form=form: dspo(
            policy, reference_residual=reference, beta=0.5, form=form
        )
        for form in ("sd15", "sdxl")
    },
    **{
        f"sdpo_{inner}": lambda policy, reference, rows, inner=inner: sdpo(
            policy, reference_residual=reference, scope="pair", inner=inner, **SDPO
        )
        for inner in ("diffusion_dpo", "dmpo", "dspo")
    },
}
ALL = {**ON_ERRORS, **ON_RESIDUALS}
every = pytest.mark.parametrize("name", ALL)
EVERYTHING = slice(None)


@pytest.fixture
def inputs(generator):
    def draw(name):
        shape = (2, PAIRS, 2, 3) if name in ON_RESIDUALS else (2, PAIRS, 2)
        return torch.rand(shape, generator=generator, dtype=torch.float64).unbind()

    return draw


@every
def test_loss_is_per_pair_and_metrics_are_detached_scalars(name, inputs):
    policy, reference = inputs(name)
    output = ALL[name](policy.requires_grad_(), reference, EVERYTHING)
    assert output.loss.shape == (PAIRS,) and output.loss.requires_grad
    assert {"margin", "pair_accuracy"} <= set(output.metrics)
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("sdpo")])  # sdpo changes gradients
def test_gradient_is_that_of_the_loss(name, inputs):
    policy, reference = inputs(name)
    assert torch.autograd.gradcheck(lambda it: ALL[name](it, reference, EVERYTHING).loss, policy.requires_grad_())


@every
def test_permuting_pairs_permutes_the_loss(name, inputs):
    policy, reference = inputs(name)
    order = torch.tensor([3, 0, 4, 1, 2])
    loss = ALL[name](policy, reference, EVERYTHING).loss
    torch.testing.assert_close(ALL[name](policy[order], reference[order], order).loss, loss[order])


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["policy", "reference"])
def test_a_bad_number_spoils_its_own_pair_alone(name, bad, where, inputs):
    policy, reference = inputs(name)
    clean = policy.clone().requires_grad_()
    ALL[name](clean, reference, EVERYTHING).loss.sum().backward()
    loss = ALL[name](clean, reference, EVERYTHING).loss.detach()
    spoilt = {"policy": policy.clone(), "reference": reference.clone()}
    spoilt[where][2, 0] = bad
    touched = spoilt["policy"].requires_grad_()
    output = ALL[name](touched, spoilt["reference"], EVERYTHING)
    output.loss.sum().backward()
    others = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(output.loss[others].detach(), loss[others])
    torch.testing.assert_close(touched.grad[others], clean.grad[others])
    if bad != bad and not (where == "reference" and name in ("mapo", "simpo", "cpo")):
        assert output.loss[2].isnan()


@pytest.mark.parametrize("name", ON_ERRORS)
def test_descent_lowers_the_winners_error_and_raises_the_losers(name):
    policy = torch.full((PAIRS, 2), 0.5, dtype=torch.float64, requires_grad=True)
    reference = torch.full((PAIRS, 2), 0.5, dtype=torch.float64)
    gradient = torch.autograd.grad(ALL[name](policy, reference, EVERYTHING).loss.sum(), policy)[0]
    assert (gradient[:, 0] > 0).all() and (gradient[:, 1] < 0).all()


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("mapo", "simpo", "cpo")])
def test_no_gradient_reaches_what_is_constant(name, inputs):
    """Shifting both networks' errors of a pair together changes nothing: only gains count."""
    if name in ON_RESIDUALS:
        return
    policy, reference = inputs(name)
    shift = torch.rand(PAIRS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        ALL[name](policy + shift, reference + shift, EVERYTHING).loss, ALL[name](policy, reference, EVERYTHING).loss
    )


@every
@pytest.mark.parametrize("size", [1e4, 1e-12])
def test_far_and_tiny_errors_stay_finite(name, size, inputs):
    policy, reference = inputs(name)
    policy, reference = (size * policy).float().requires_grad_(), (size * reference).float()
    if name == "smpo":  # its preferences are float64 above
        output = smpo(policy, reference=reference, preference=PREFERENCE.float(), beta=3.0, scale=10.0)
    elif name == "alpha_dpo":
        output = alpha_dpo(
            policy, reference=reference, baseline=BASELINE.float(), beta=3.0, alpha=0.9999, adaptive=True
        )
    else:
        output = ALL[name](policy, reference, EVERYTHING)
    output.loss.sum().backward()
    assert output.loss.isfinite().all() and policy.grad.isfinite().all()


@pytest.mark.parametrize(
    "limit",
    [
        partial(smpo, preference=torch.ones(PAIRS, dtype=torch.float64), beta=3.0, scale=1.0),
        partial(f_dpo, beta=3.0, strength=1.0, f_divergence="reverse_kl", alpha=0.5),
        partial(f_dpo, beta=3.0, strength=1.0, f_divergence="alpha", alpha=1e-9),
    ],
)
def test_where_it_is_diffusion_dpo(limit, inputs):
    policy, reference = inputs("smpo")
    torch.testing.assert_close(
        limit(policy, reference=reference).loss, diffusion_dpo(policy, reference=reference, beta=3.0).loss
    )


def test_without_a_reference_it_is_diffusion_dpo_against_a_flat_one(inputs):
    policy, _ = inputs("simpo")
    plain = diffusion_dpo(policy, reference=torch.zeros_like(policy), beta=3.0).loss
    torch.testing.assert_close(simpo(policy, beta=3.0, gamma=0.0).loss, plain)
    torch.testing.assert_close(cpo(policy, beta=3.0, weight=0.5).loss, plain + 0.5 * policy[:, 0])
