"""Numbers recorded in float64 from the papers' formulas, written independently of this package.

Source: the method notes on the neighbours of Diffusion-DPO (each named there with its repository), and, for IPO, those
on Diffusion-DPO (section 9). Six digits each.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffalign.objectives import (
    alpha_dpo,
    alpha_dpo_baseline,
    cpo,
    diffusion_kto,
    dmpo,
    dspo,
    f_dpo,
    ipo,
    kto_baseline,
    mapo,
    sdpo,
    simpo,
)
from diffalign.objectives.sdpo import loser_scale
from tests.parity.test_dpo_cards import POLICY, REFERENCE

RESIDUALS = [[[-0.05, 0.1, -0.05, 0.1], [-0.04, 0.08, -0.1, 0.02]]]  # residuals of the note on SDPO


def _tensor(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _six(found: Tensor, expected: list | float, atol: float = 6e-7) -> None:
    torch.testing.assert_close(found, _tensor(expected), rtol=0, atol=atol)


# ---------------------------------------------------------------- Diffusion-KTO


def test_kto():
    policy = _tensor([[0.1210], [0.0874], [0.2050], [0.0433]])
    reference = _tensor([[0.1214], [0.0872], [0.2053], [0.0430]])
    label = _tensor([[1], [1], [-1], [-1]])
    _six(reference - policy, [[4e-4], [-2e-4], [3e-4], [-3e-4]])
    baseline = kto_baseline(policy, reference=reference, label=label, offset="batch")
    torch.testing.assert_close(baseline, _tensor(5e-5), rtol=0, atol=1e-15)
    output = diffusion_kto(
        policy, reference=reference, label=label, baseline=baseline, beta=1000.0, desirable=1.0, undesirable=1.0
    )
    _six(output.loss.mean(), 0.487779)


# ---------------------------------------------------------------- MaPO


def test_mapo():
    output = mapo(POLICY, weight=0.1, scale=1000.0, snr=0.5)
    _six(output.loss.mean(), 0.175110)
    for pair, difference in enumerate([0.000367, -0.000123, 0.000604, -0.000050]):
        alone = mapo(POLICY[pair : pair + 1], weight=0.1, scale=1.0, snr=0.5)
        _six(alone.metrics["margin"], difference)


# ---------------------------------------------------------------- DSPO


TARGET = _tensor([0.3, -0.2, 0.5, 0.1])
PREDICTION = _tensor([[[0.25, -0.1, 0.45, 0.2], [0.2, -0.25, 0.6, 0.05]]])
FROZEN = _tensor([[[0.27, -0.12, 0.40, 0.18], [0.24, -0.22, 0.55, 0.06]]])


def test_dspo_errors():
    _six((PREDICTION - TARGET).square().mean(2), [[0.00625, 0.00625]], atol=1e-12)
    _six((FROZEN - TARGET).square().mean(2), [[0.005925, 0.002025]], atol=1e-12)


@pytest.mark.parametrize(("beta", "z", "loss"), [(0.001, 1.95e-6, 0.006249375), (5000.0, 9.75, 0.005964255)])
def test_dspo(beta, z, loss):
    output = dspo(PREDICTION - TARGET, reference_residual=FROZEN - TARGET, beta=beta, form="sd15")
    torch.testing.assert_close(output.metrics["margin"], _tensor(z))
    _six(output.loss, [loss], atol=6e-10)


# ---------------------------------------------------------------- DMPO, SDPO, alpha-DPO


def test_dmpo():
    _six(dmpo(POLICY, reference=REFERENCE, beta=2000.0, alpha=0.01).loss.mean(), 1.568961)


@pytest.mark.parametrize("scope", ["pair", "batch"])
def test_sdpo_scale(scope):
    _six(loser_scale(_tensor(RESIDUALS), mu=0.9, scope=scope), [0.147059])
    output = sdpo(
        _tensor(RESIDUALS),
        reference_residual=torch.zeros(1, 2, 4, dtype=torch.float64),
        beta=5000.0,
        mu=0.9,
        scope=scope,
        inner="diffusion_dpo",
        alpha=0.01,
        form="sd15",
    )
    _six(output.metrics["loser_scale"], 0.147059)


@pytest.mark.parametrize(("adaptive", "order", "loss"), [(False, 0.9999, 0.192199), (True, 0.529712, 0.229709)])
def test_alpha_dpo(adaptive, order, loss):
    baseline = alpha_dpo_baseline(POLICY, reference=REFERENCE, beta=4000.0)
    output = alpha_dpo(POLICY, reference=REFERENCE, baseline=baseline, beta=4000.0, alpha=0.9999, adaptive=adaptive)
    _six(output.metrics["order"], order)
    _six(output.loss.mean(), loss)


# ---------------------------------------------------------------- IPO, SimPO, CPO, f-DPO


def test_ipo():
    _six(ipo(POLICY, reference=REFERENCE, beta=5000.0, unit="margin").loss.mean(), 1.921875)
    _six(ipo(POLICY, reference=REFERENCE, beta=5000.0, unit="error").loss.mean(), 3.075e-7, atol=6e-11)


def test_simpo():
    _six(simpo(POLICY, beta=5000.0, gamma=0.5).loss.mean(), 0.816176)


def test_cpo():
    _six(cpo(POLICY, beta=5000.0, weight=1.0).loss.mean(), 0.739470)


@pytest.mark.parametrize(
    ("f_divergence", "loss"),
    [("reverse_kl", 0.812609), ("forward_kl", 0.793752), ("jensen_shannon", 0.698739), ("alpha", 0.797686)],
)
def test_f_dpo(f_divergence, loss):
    log_u = 2500 * (REFERENCE - POLICY)
    _six(log_u[:, 0], [1, -0.5, -0.5, 0.75])
    _six(log_u[:, 1], [-0.75, 0.25, 1, -0.5])
    output = f_dpo(POLICY, reference=REFERENCE, beta=5000.0, strength=1.0, f_divergence=f_divergence, alpha=0.5)
    _six(output.loss.mean(), loss)
