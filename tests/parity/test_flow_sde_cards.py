"""One step of Flow-GRPO, DanceGRPO and CPS against numbers recorded in float64 from the authors' code.

Source: the method notes on the Flow-GRPO family (section 11), written independently of this package: flow_grpo's
sd3_sde_with_logprob.py, DanceGRPO's train_grpo_flux.py, Flow-Factory's trainers/grpo.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffalign.denoising import LinearFlow, Prediction
from diffalign.samplers import FlowSDE, Step, log_density
from tests.denoising.toys import Fixed
from tests.samplers.toys import no_condition


def _of(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


X, V, Z = _of(0.3, -0.6, 0.9, 0.1), _of(0.5, -0.1, 0.2, -0.4), _of(1.0, -0.5, 0.25, -1.5)
V_NEW = V + _of(0.02, -0.01, 0.03, -0.02)


def _six(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-7)


def _step(sampler: FlowSDE, velocity: Tensor = V, t: float = 0.8, t_next: float = 0.7) -> Step:
    times = (torch.tensor([time], dtype=torch.float64) for time in (t, t_next))
    return sampler.step(Fixed(LinearFlow(), Prediction.FLOW, velocity), X, *times, no_condition(1))


def _log_prob(step: Step, taken: Tensor, reduce: str = "mean") -> Tensor:
    return log_density(taken, step.mean, step.std, density=step.density, reduce=reduce)


def test_flow_grpo():
    old, new = _step(FlowSDE("flow_grpo", 0.7)), _step(FlowSDE("flow_grpo", 0.7), V_NEW)
    _six(old.std, _of(0.442719))
    _six(old.mean, _of(0.201000, -0.514050, 0.764850, 0.137550))
    taken = old.mean + old.std * Z
    _six(taken, _of(0.643719, -0.735409, 0.875530, -0.526528))
    _six(_log_prob(old, taken), _of(-0.549431)[0])
    _six(_log_prob(old, taken, "sum"), _of(-2.197723)[0])
    _six(new.mean, _of(0.198510, -0.512805, 0.761115, 0.140040))
    _six(_log_prob(new, taken), _of(-0.553843)[0])
    _six((_log_prob(new, taken) - _log_prob(old, taken)).exp(), _of(0.995598)[0])


@pytest.mark.parametrize("guard", [None, 0.9642857])
def test_flow_grpo_from_pure_noise(guard):
    """s_t is infinite at sigma 1: the second time of the schedule stands in, wherever it comes from."""
    step = _step(FlowSDE("flow_grpo", 0.7, guard), t=1.0, t_next=0.9642857)
    _six(step.std, _of(0.700000))
    _six(step.mean, _of(0.208643, -0.449429, 0.672357, 0.089786))
    torch.testing.assert_close(step.std / (1 - 0.9642857) ** 0.5, _of(3.704052), rtol=0, atol=5e-6)  # at seven digits


def test_unirl_guards_otherwise():
    """Its training side takes 0.99 where its rollout takes the second time: another std, so a first ratio that is not 1."""
    step = _step(FlowSDE("flow_grpo", 0.7, guard=0.99), t=1.0, t_next=0.9642857)
    _six(step.std, _of(0.7 * (1 / 0.01) ** 0.5 * (1 - 0.9642857) ** 0.5))


def test_dance():
    step = _step(FlowSDE("dance", 0.3))
    _six(step.mean, _of(0.247750, -0.586513, 0.874713, 0.139888))
    _six(step.std, _of(0.094868))
    _six(_log_prob(step, step.mean + step.std * Z), _of(0.991014)[0])


def test_dance_is_the_score_form_of_its_code():
    """mean = x + v dt - (eta^2 / 2) score dt, with score = -(x - (1 - t) x0) / t^2."""
    score = _of(-0.5, 0.775, -1.175, -0.025)
    x0 = X - 0.8 * V
    torch.testing.assert_close(-(X - 0.2 * x0) / 0.64, score)
    expected = X - 0.1 * V + 0.5 * 0.3**2 * 0.1 * score
    torch.testing.assert_close(_step(FlowSDE("dance", 0.3)).mean, expected)


def test_cps():
    step = _step(FlowSDE("cps", 0.8))
    _six(step.std, _of(0.665740))
    _six(step.mean, _of(0.056525, -0.290113, 0.425333, 0.130326))
    _six(_log_prob(step, step.mean + step.std * Z), _of(-0.394733)[0])


def test_grpo_guard():
    """Its ratio wants std and the means beside the log-probabilities: a step has them all."""
    old, new = _step(FlowSDE("flow_grpo", 0.7)), _step(FlowSDE("flow_grpo", 0.7), V_NEW)
    taken = old.mean + old.std * Z
    difference = _log_prob(new, taken) - _log_prob(old, taken)
    square = (new.mean - old.mean).square().mean(1)
    _six((difference * old.std[:, 0] + square / (2 * old.std[:, 0])).exp(), _of(0.998057)[0])
