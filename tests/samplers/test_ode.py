"""The Euler step of a flow."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.samplers import DDIM, FlowEuler, Sampler, sample
from tests.denoising.toys import PROCESSES, Fixed
from tests.samplers.toys import GaussianData, no_condition

FLOW = LinearFlow()


def test_step_is_diffusers_step_to_the_bit(generator):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    sigmas = scheduler.sigmas
    x, outputs = torch.randn(1, 4, 3, 3, generator=generator), torch.randn(7, 1, 4, 3, 3, generator=generator)
    ours = theirs = x
    for number, output in enumerate(outputs):
        step = FlowEuler().step(
            Fixed(FLOW, Prediction.FLOW, output),
            ours,
            sigmas[number : number + 1],
            sigmas[number + 1 : number + 2],
            no_condition(1),
        )
        assert not step.std.any() and step.state is None
        torch.testing.assert_close(step.x0, ours - sigmas[number] * output, rtol=1e-5, atol=1e-5)
        ours = step.mean
        theirs = scheduler.step(output, scheduler.timesteps[number], theirs, return_dict=False)[0]
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("prediction", Prediction)
def test_any_prediction_gives_the_same_step(prediction, generator):
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    t, t_next = torch.tensor([0.8, 0.3]), torch.tensor([0.6, 0.0])
    found = FlowEuler().step(GaussianData(FLOW, prediction), x, t, t_next, no_condition(2))
    expected = FlowEuler().step(GaussianData(FLOW, Prediction.FLOW), x, t, t_next, no_condition(2))
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    ddim = DDIM().step(GaussianData(FLOW, prediction), x, t, t_next, no_condition(2))
    torch.testing.assert_close(found.mean, ddim.mean, rtol=1e-6, atol=1e-6)  # on a linear flow they are one


@pytest.mark.parametrize("name", ["vp", "vp_zero_snr", "edm"])
def test_it_refuses_other_processes(name):
    x = torch.zeros(1, 3)
    denoiser = Fixed(PROCESSES[name], Prediction.V, x)
    with pytest.raises(ConfigError, match=r"needs a linear flow, got (VP|EDM); use DDIM"):
        FlowEuler().step(denoiser, x, torch.ones(1), torch.zeros(1), no_condition(1))


def test_the_networks_dtype_does_not_become_the_states(generator):
    x = torch.randn(1, 6, generator=generator)
    denoiser = Fixed(FLOW, Prediction.FLOW, x.bfloat16())
    step = FlowEuler().step(denoiser, x, torch.ones(1), torch.full((1,), 0.9), no_condition(1))
    assert isinstance(FlowEuler(), Sampler)
    assert step.mean.dtype == step.x0.dtype == torch.float32
    assert step.prediction.dtype == torch.bfloat16


def test_gaussian_data_are_reached(generator):
    x = torch.randn(4000, 1, generator=generator)
    found = sample(GaussianData(FLOW, Prediction.FLOW), FlowEuler(), no_condition(4000), x, torch.linspace(1, 0, 101))
    assert found.mean().item() == pytest.approx(0.7, abs=0.03)
    assert found.std().item() == pytest.approx(0.4, rel=0.05)
