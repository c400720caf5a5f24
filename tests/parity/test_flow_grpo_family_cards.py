"""Numbers recorded in float64 from the papers' code, written independently of this package.

Source: the method notes on the Flow-GRPO family (section 11): flow_grpo's sd3_sde_with_logprob.py and train_sd3.py,
Flow-Factory's trainers/grpo.py (guard) and crd.py, UniRL's flowdppo.py, DiffusionNFT's train_nft_sd3.py,
advantage_weighted_matching's train_sd3_awm.py, DGPO's train_sd3_dgpo.py. Six digits each.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffalign.denoising import LinearFlow, NoiseDraw, Prediction, denoising_errors
from diffalign.objectives import awm, crd, dgpo, flow_grpo, nft
from diffalign.objectives.divergence import gaussian_divergence, residual_divergence
from tests.denoising.toys import Fixed, condition_of


def _of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _six(found: Tensor, expected: list | float, atol: float = 6e-7) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


# ---------------------------------------------------------------- one Flow-SDE step, sigma 0.8 -> 0.7, a = 0.7

X, V, Z = _of(0.3, -0.6, 0.9, 0.1), _of(0.5, -0.1, 0.2, -0.4), _of(1.0, -0.5, 0.25, -1.5)
V_NEW, V_REFERENCE = V + _of(0.02, -0.01, 0.03, -0.02), _of(0.45, -0.05, 0.25, -0.35)
SIGMA, DT = 0.8, -0.1
S = 0.7 * math.sqrt(SIGMA / (1 - SIGMA))
STD = S * math.sqrt(-DT)
STDS = torch.full((1, 1), STD, dtype=torch.float64)


def _mean(velocity: Tensor) -> Tensor:
    return X * (1 + S**2 * DT / (2 * SIGMA)) + velocity * (1 + S**2 * (1 - SIGMA) / (2 * SIGMA)) * DT


def _log_prob(velocity: Tensor) -> Tensor:
    """Of the step that V took: mean over the 4 elements."""
    taken = _mean(V) + STD * Z
    density = -((taken - _mean(velocity)) ** 2) / (2 * STD**2) - math.log(STD) - math.log(2 * math.pi) / 2
    return density.mean().reshape(1, 1)


def _step(advantage: float, **options):
    options = {"clip": 1e-4} | options
    return flow_grpo(
        _log_prob(V_NEW), behaviour_log_prob=_log_prob(V), advantage=_of(advantage).reshape(1, 1), **options
    )


def _behaviour_divergence() -> Tensor:
    return gaussian_divergence(_mean(V_NEW)[None, None], other_mean=_mean(V)[None, None], std=STDS)


def test_the_step_itself():
    assert round(S, 6) == 1.4 and round(STD, 6) == 0.442719
    _six(_mean(V), [0.201000, -0.514050, 0.764850, 0.137550])
    _six(_mean(V_NEW), [0.198510, -0.512805, 0.761115, 0.140040])
    _six(_mean(V) + STD * Z, [0.643719, -0.735409, 0.875530, -0.526528])
    _six(_log_prob(V), [[-0.549431]])
    _six(_log_prob(V).sum() * 4, -2.197723)
    _six(_log_prob(V_NEW), [[-0.553843]])


@pytest.mark.parametrize(("advantage", "loss"), [(1.2, -1.194717), (-0.8, 0.799920)])
def test_flow_grpo(advantage, loss):
    output = _step(advantage)
    _six(output.loss, [loss])
    _six(output.metrics["ratio"], 0.995598)
    assert output.metrics["clip_fraction"] == 1


@pytest.mark.parametrize(("std", "expected"), [(S, 1.364180e-5), (STD, 1.364180e-4)])
def test_flow_grpo_divergence_in_the_code_and_exactly(std, expected):
    means = {"mean": _mean(V_NEW)[None, None], "other_mean": _mean(V_REFERENCE)[None, None]}
    divergence = gaussian_divergence(**means, std=torch.full((1, 1), std, dtype=torch.float64))
    _six(divergence, [[expected]], atol=6e-7 * expected)
    with_it, without = _step(1.2, divergence=divergence, kl_weight=0.04), _step(1.2)
    _six(with_it.loss - without.loss, [0.04 * expected], atol=1e-12)
    _six(with_it.metrics["kl"], expected, atol=6e-7 * expected)


def test_grpo_guard():
    output = _step(1.2, guard=True, std=STDS, behaviour_divergence=_behaviour_divergence())
    _six(output.metrics["ratio"], 0.998057)


def test_grpo_guard_is_the_published_form():
    """The code, the long way: exp((new - old) scale + mean (mu_new - mu_old)^2 / (2 scale))."""
    square = (_mean(V_NEW) - _mean(V)).square().mean()
    expected = torch.exp((_log_prob(V_NEW) - _log_prob(V)) * STD + square / (2 * STD))
    output = _step(1.0, guard=True, clip=None, std=STDS, behaviour_divergence=_behaviour_divergence())
    torch.testing.assert_close(output.loss, -expected[0])


@pytest.mark.parametrize(("advantage", "loss"), [(1.2, -1.2 * 0.995598), (-0.8, 0.0)])
def test_flow_dppo_drops_only_what_runs_on(advantage, loss):
    divergence = _behaviour_divergence()
    _six(divergence, [[1.779e-5]], atol=6e-9)
    output = _step(advantage, clip=None, behaviour_divergence=divergence, max_divergence=1e-5)
    _six(output.loss, [loss], atol=1.2e-6)
    assert output.metrics["masked_fraction"] == (advantage < 0)
    kept = _step(advantage, clip=None, behaviour_divergence=divergence, max_divergence=2e-5)
    assert kept.metrics["masked_fraction"] == 0


# ---------------------------------------------------------------- DiffusionNFT, AWM: one sample at t = 0.6

X0, NOISE = _of(0.5, -0.25, 1.0, 0.0), _of(0.2, -0.4, 0.6, -0.8)
TARGET = NOISE - X0
POLICY, BEHAVIOUR, REFERENCE = (
    _of(0.10, -0.20, 0.05, 0.15)[None, None],
    _of(0.20, -0.20, 0.10, 0.20)[None, None],
    _of(0.25, -0.15, 0.10, 0.10)[None, None],
)
T = _of(0.6)[None]


@pytest.mark.parametrize(
    ("beta", "positive", "negative", "policy", "total"),
    [(1.0, 0.090000, 0.143333, 0.543333, 0.543334), (0.1, 0.108662, 0.114292, None, 5.531612)],
)
def test_nft(beta, positive, negative, policy, total):
    inputs = {"behaviour_residual": BEHAVIOUR, "advantage": _of(1.5)[None], "t": T}
    options = {"beta": beta, "advantage_clip": 5.0, "normalise": True}
    output = nft(POLICY, **inputs, reference_residual=REFERENCE, **options, kl_weight=1e-4)
    _six(output.loss, [total])
    for name, value in {"optimality": 0.65, "positive_error": positive, "negative_error": negative}.items():
        _six(output.metrics[name], value)
    _six(output.metrics["kl"], 0.007500)
    if policy is not None:
        _six(nft(POLICY, **inputs, **options, kl_weight=0.0).loss, [policy])


def test_nft_is_the_published_form():
    """From x_t, x0 and the predictions, the long way; and the residuals are those of `denoising_errors`."""
    flow, t, beta = LinearFlow(), 0.6, 0.1
    networks = [Fixed(flow, Prediction.FLOW, TARGET + residual) for residual in (POLICY, BEHAVIOUR)]
    draw = NoiseDraw(T, NOISE[None, None])
    errors = denoising_errors(
        networks[0],
        None,
        X0[None, None],
        condition_of(1),
        draw,
        others={"behaviour": networks[1]},
        measure=Prediction.FLOW,
        residuals=True,
    )
    torch.testing.assert_close(errors.residuals["behaviour"], BEHAVIOUR)
    x_t = (1 - t) * X0 + t * NOISE
    new, old = (TARGET + residual[0, 0] for residual in (POLICY, BEHAVIOUR))
    parts = []
    for velocity in (beta * new + (1 - beta) * old, (1 + beta) * old - beta * new):
        guess = x_t - t * velocity
        parts.append(((guess - X0) ** 2 / (guess - X0).abs().mean().clip(min=1e-5)).mean())
    expected = 5 * (0.65 * parts[0] + 0.35 * parts[1]) / beta
    output = nft(
        errors.residuals["policy"],
        behaviour_residual=errors.residuals["behaviour"],
        advantage=_of(1.5)[None],
        t=errors.t,
        beta=beta,
        advantage_clip=5.0,
        normalise=True,
        kl_weight=0.0,
    )
    torch.testing.assert_close(output.loss[0], expected)


@pytest.mark.parametrize(
    ("weighting", "ratio", "loss"),
    [
        ("uniform", 1.013845, -0.304153),
        ("t", 1.008284, -0.302485),
        ("t_squared", 1.004962, -0.301489),
        ("huber", 1.026349, -0.307905),
        ("ghuber", 1.139876, -0.341963),
    ],
)
def test_awm(weighting, ratio, loss):
    def score(advantage, scale):
        return awm(
            POLICY.square().mean(-1),
            behaviour=BEHAVIOUR.square().mean(-1),
            advantage=_of(advantage)[None],
            t=T,
            weighting=weighting,
            power=0.25,
            clip=1.0,
            advantage_clip=5.0,
            advantage_scale=scale,
            kl_weight=0.0,
            ema_weight=0.0,
        )

    output = score(0.3, 5.0)  # A = 0.3 as it is
    _six(output.loss, [loss])
    _six(output.metrics["ratio"], ratio)
    _six(score(1.5, 1.0).loss, [loss])  # 1.5 / 5 * 1
    _six(residual_divergence(POLICY, other_residual=REFERENCE), [[0.007500]])


# ---------------------------------------------------------------- DGPO, CRD: one group of four

ERRORS, FROZEN = _of(0.40, 0.46, 0.50, 0.47)[None], torch.full((1, 4), 0.45, dtype=torch.float64)
REWARD = _of(0.9, 0.5, 0.1, 0.6)[None]
ADVANTAGE = (REWARD - REWARD.mean()) / (REWARD.std(correction=0) + 1e-4)


def _dgpo(form, **options):
    inputs = {"reference": FROZEN, "behaviour": ERRORS, "advantage": ADVANTAGE}
    settings = {"beta": 100.0, "clip": None, "advantage_clip": 5.0, "kl_weight": 0.0}
    return dgpo(ERRORS, **inputs, **settings | options, form=form)


def test_dgpo():
    _six(ADVANTAGE, [[1.310098, -0.087340, -1.484778, 0.262020]])
    output = _dgpo("weighted")
    _six(output.loss, [-0.001110])
    _six(output.metrics["margin"], 3.384420)
    _six(output.metrics["weight"], 0.032786)
    _six(_dgpo("weighted", clip=1e-2).loss, [-0.001110])  # the clip stops gradients, not values


def test_crd():
    settings = {"beta": 1.0, "loss": "mse", "temperature": None, "adaptive": False, "advantage_clip": 5.0}
    output = crd(ERRORS, behaviour=FROZEN, advantage=ADVANTAGE, **settings, kl_weight=0.0, adaptive_kl=False)
    _six(output.loss, [0.022715])
    _six(output.loss / 5, [0.004543])
    _six(output.metrics["reward_gap"] ** 2, 0.004543)
