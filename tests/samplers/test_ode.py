"""The Euler and Heun steps of a flow."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.samplers import DDIM, FlowEuler, FlowHeun, Sampler, sample
from tests.denoising.toys import PROCESSES, Fixed, Seen, condition_of
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


@pytest.mark.parametrize("sampler", [FlowEuler(), FlowHeun()])
@pytest.mark.parametrize("name", ["vp", "vp_zero_snr", "edm"])
def test_they_refuse_other_processes(name, sampler):
    x = torch.zeros(1, 3)
    denoiser = Fixed(PROCESSES[name], Prediction.V, x)
    with pytest.raises(ConfigError, match=r"needs a linear flow, got (VP|EDM); use DDIM"):
        sampler.step(denoiser, x, torch.ones(1), torch.zeros(1), no_condition(1))


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


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_heun_is_diffusers_heun(steps, generator):
    """To the bit but for the division by sigma that they undo: 1e-6 for states of size 1."""
    scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    times = torch.cat([scheduler.timesteps[:1], scheduler.timesteps[1::2]]) / 1000
    times = torch.cat([times, torch.zeros(1)])
    network, condition = Seen(FLOW, Prediction.FLOW), condition_of(2)
    theirs = x = torch.randn(2, 3, 4, generator=generator)
    ours = sample(network, FlowHeun(), condition, x, times)
    calls = list(network.batches)
    with torch.no_grad():
        for time in scheduler.timesteps:
            output = network(theirs, (time / 1000).expand(2), condition)
            theirs = scheduler.step(output, time, theirs, return_dict=False)[0]
    assert calls == [2] * (2 * steps - 1) == [2] * len(scheduler.timesteps)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("sampler", "falls"), [(FlowEuler(), (1.8, 2.2)), (FlowHeun(), (3.6, 4.4))])
def test_order_of_convergence(sampler, falls):
    """Where the flow of Gaussian data leads is known: every sample keeps its quantile."""
    denoiser, x = GaussianData(FLOW, Prediction.FLOW), torch.tensor([[1.5], [-0.5]], dtype=torch.float64)

    def error(steps):
        times = torch.linspace(1, 0.05, steps + 1, dtype=torch.float64)
        spread = (0.95**2 * 0.16 + 0.05**2) ** 0.5
        return (sample(denoiser, sampler, no_condition(2), x, times) - (0.95 * 0.7 + spread * x)).abs().max().item()

    low, high = falls
    assert low < error(40) / error(80) < high


@pytest.mark.parametrize("prediction", [Prediction.FLOW, Prediction.SAMPLE, Prediction.NOISE])
def test_heun_with_times_of_each_sample(prediction):
    """A row on its last step is Euler's, beside one that is not; no prediction is asked for what it cannot say at 0."""
    denoiser, x = GaussianData(FLOW, prediction), torch.tensor([[1.0, 0.2], [0.5, -0.3]])
    t, t_next = torch.tensor([0.3, 0.8]), torch.tensor([0.0, 0.6])
    both = FlowHeun().step(denoiser, x, t, t_next, no_condition(2))
    euler = FlowEuler().step(denoiser, x[:1], t[:1], t_next[:1], no_condition(1))
    heun = FlowHeun().step(denoiser, x[1:], t[1:], t_next[1:], no_condition(1))
    torch.testing.assert_close(both.mean, torch.cat([euler.mean, heun.mean]))
    assert not torch.allclose(
        FlowEuler().step(denoiser, x, t, t_next, no_condition(2)).mean[1], heun.mean[0], atol=1e-3
    )
