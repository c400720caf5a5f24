"""Half-precision inputs: every objective computes on them as on the same numbers in float32."""

from __future__ import annotations

import pytest
import torch

from diffalign.objectives import OBJECTIVES, alpha_dpo_baseline, ipo, kto_baseline
from diffalign.objectives.advantages import decoupled_advantage, group_advantage
from diffalign.objectives.divergence import gaussian_divergence, residual_divergence
from diffalign.objectives.sdpo import loser_scale
from tests.objectives.test_table import ROWS, inputs_of

halves = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def _cast(value, dtype):
    return value.to(dtype) if value.is_floating_point() else value


def _same(found, expected):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@halves
@ROWS
def test_an_objective_sees_at_least_float32(name, row, half):
    policy, inputs = inputs_of(row, dtype=half)
    policy.requires_grad_()
    wide = policy.detach().float().requires_grad_()
    settings = row.params().model_dump(exclude={"name"})
    output = row.function(policy, **inputs, **settings)
    expected = row.function(wide, **{key: _cast(value, torch.float32) for key, value in inputs.items()}, **settings)
    assert output.loss.dtype == torch.float32
    _same(output.loss, expected.loss)
    assert output.metrics.keys() == expected.metrics.keys()
    for figure, value in output.metrics.items():
        _same(value, expected.metrics[figure])
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    _same(gradient, torch.autograd.grad(expected.loss.sum(), wide)[0].to(half))


@ROWS
def test_float64_stays(name, row):
    policy, inputs = inputs_of(row, dtype=torch.float64)
    output = row.function(policy, **inputs, **row.params().model_dump(exclude={"name"}))
    assert output.loss.dtype == torch.float64


ERRORS = torch.tensor([[0.1234, 0.1311], [0.2, 0.1501]])
RESIDUALS = torch.linspace(-1, 1, 48).reshape(2, 2, 12)


@halves
@pytest.mark.parametrize(
    "statistic",
    [
        lambda cast: alpha_dpo_baseline(cast(ERRORS), reference=cast(ERRORS.flip(1)), beta=4000.0),
        lambda cast: kto_baseline(cast(ERRORS), reference=cast(2 * ERRORS), label=cast(ERRORS.sign()), offset="batch"),
        lambda cast: loser_scale(cast(RESIDUALS), mu=0.9, scope="pair"),
        lambda cast: residual_divergence(cast(RESIDUALS), other_residual=cast(1.01 * RESIDUALS)),
        lambda cast: gaussian_divergence(cast(RESIDUALS), other_mean=cast(1.01 * RESIDUALS), std=cast(ERRORS)),
        lambda cast: group_advantage(cast(ERRORS), convention="dance_grpo").values,  # its 1e-8 is 0 in float16
        lambda cast: decoupled_advantage(cast(ERRORS)[None], weights=[1.0], convention="gdpo").values,
    ],
    ids=["alpha_dpo", "kto", "loser_scale", "residual", "gaussian", "group", "decoupled"],
)
def test_so_do_the_statistics_that_they_take(statistic, half):
    _same(statistic(lambda value: value.to(half)), statistic(lambda value: value.to(half).float()))


def test_ipo_in_half_precision_is_finite_at_its_default_beta():
    """A margin of 300 squared is past float16's largest number, 65504."""
    settings = OBJECTIVES["ipo"].params()
    policy = torch.tensor([[0.1, 0.22]], dtype=torch.float16)
    output = ipo(policy, reference=torch.full_like(policy, 0.1), beta=settings.beta, unit="margin")
    assert output.loss.item() == pytest.approx(299.5**2, rel=1e-2)
