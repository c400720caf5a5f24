"""DPM-Solver++: agreement with diffusers' scheduler, its order, and schedules of each sample's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from diffalign.denoising import VP, LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.samplers import DDIM, DPMSolverPP, Sampler, rollout, sample, step_log_prob
from tests.denoising.toys import PROCESSES, STABLE_DIFFUSION, Seen, condition_of
from tests.samplers.toys import GaussianData, no_condition

NAMES = {"epsilon": Prediction.NOISE, "v_prediction": Prediction.V, "sample": Prediction.SAMPLE}


def _theirs(scheduler, network, x, times):
    """Their loop, on our network at our times; the first step's as well as the last state."""
    states = []
    for number, time in enumerate(scheduler.timesteps):
        output = network(x, times[number].expand(len(x)), condition_of(len(x)))
        x = scheduler.step(output, time, x, return_dict=False)[0]
        states.append(x)
    return torch.stack(states)


def _ours(sampler, network, x, times):
    condition, state, states = condition_of(len(x)), None, []
    for now, after in itertools.pairwise(times):
        step = sampler.step(network, x, now, after, condition, state)
        x, state = step.mean, step.state
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 8, 20])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_vp_states_are_those_of_diffusers(kind, steps, final, generator):
    """Every state; tolerance 1e-4 for states of size 1 (measured at most 3e-5: their sigma is of another rounding)."""
    scheduler = DPMSolverMultistepScheduler(**STABLE_DIFFUSION, prediction_type=kind, final_sigmas_type=final)
    scheduler.set_timesteps(steps)
    process = VP.from_scheduler_config(scheduler.config)
    end = torch.tensor(0.0) if final == "zero" else process.time_of(torch.tensor(0.0))
    times = torch.cat([process.time_of(scheduler.timesteps.float()), end[None]])
    network = Seen(process, NAMES[kind])
    x = torch.randn(2, 3, 4, generator=generator)
    with torch.no_grad():
        ours, theirs = _ours(DPMSolverPP.for_times(times), network, x, times), _theirs(scheduler, network, x, times)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 10, 25])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_states_are_those_of_diffusers(steps, shift, generator):
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    network, times = Seen(LinearFlow(), Prediction.FLOW), scheduler.sigmas
    x = torch.randn(2, 3, 4, generator=generator)
    with torch.no_grad():
        ours, theirs = _ours(DPMSolverPP.for_times(times), network, x, times), _theirs(scheduler, network, x, times)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_first_order_is_ddim(generator):
    x, times = torch.randn(2, 3, generator=generator), torch.linspace(0.95, 0.0, 6)
    for process in PROCESSES.values():
        denoiser = GaussianData(process, Prediction.V)
        found = sample(denoiser, DPMSolverPP(order=1), no_condition(2), x, times)
        torch.testing.assert_close(found, sample(denoiser, DDIM(), no_condition(2), x, times), rtol=1e-4, atol=1e-4)


def _exact(denoiser, x, start, end):
    """Where the flow of Gaussian data leads: every sample keeps its quantile."""

    def marginal(t):
        alpha, sigma = denoiser.process.alpha(t), denoiser.process.sigma(t)
        return alpha * denoiser.mean, (alpha**2 * denoiser.std**2 + sigma**2).sqrt()

    (mean, std), (mean_end, std_end) = marginal(start), marginal(end)
    return mean_end + std_end * (x - mean) / std


@pytest.mark.parametrize(("name", "steps"), [("vp", 80), ("linear_flow", 40)])
@pytest.mark.parametrize(("order", "falls"), [(1, (1.9, 2.1)), (2, (3.5, 4.5))])
def test_order_of_convergence(name, steps, order, falls):
    denoiser = GaussianData(PROCESSES[name], Prediction.V)
    x = torch.tensor([[1.5], [-0.5]], dtype=torch.float64)

    def error(steps):
        times = torch.linspace(0.9, 0.05, steps + 1, dtype=torch.float64)
        found = sample(denoiser, DPMSolverPP(order=order), no_condition(2), x, times)
        return (found - _exact(denoiser, x, times[0], times[-1])).abs().max().item()

    low, high = falls
    assert low < error(steps) / error(2 * steps) < high


def test_starts_without_signal_and_ends_without_noise(generator):
    """lambda is infinite at both ends; the step after the first is of first order, and nothing is NaN."""
    x = torch.randn(2, 3, generator=generator)
    for name in ("vp_zero_snr", "linear_flow"):
        denoiser = GaussianData(PROCESSES[name], Prediction.V)
        times = torch.tensor([1.0, 0.8, 0.5, 0.0])
        states = _ours(DPMSolverPP(), denoiser, x, times)
        assert states.isfinite().all()
        ddim = sample(denoiser, DDIM(), no_condition(2), x, times[:3])
        torch.testing.assert_close(states[1], ddim, rtol=1e-4, atol=1e-5)


def test_each_sample_may_have_its_own_schedule():
    """Also where one ends at t = 0 before the other does, or is of first order alone."""
    network = Seen(PROCESSES["vp"], Prediction.V)
    mine, yours = torch.tensor([0.9, 0.7, 0.4, 0.0]), torch.tensor([0.95, 0.6, 0.3, 0.2])
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    sampler = DPMSolverPP(last=0.1)
    both = torch.stack([mine, yours], dim=1)
    condition, state, found = condition_of(2), None, x
    for now, after in itertools.pairwise(both):
        step = sampler.step(network, found, now, after, condition, state)
        found, state = step.mean, step.state
    for row, times in enumerate((mine, yours)):
        alone = sample(network, sampler, condition[row : row + 1], x[row : row + 1], times)
        torch.testing.assert_close(found[row : row + 1], alone.detach())
    same = rollout(network, sampler, condition, x[:, None], both[:, :, None], generators=None)
    torch.testing.assert_close(same.x0[:, 0], found)


def test_few_steps_end_in_first_order():
    times = torch.linspace(1, 0.1, 11)
    assert DPMSolverPP.for_times(times).last == pytest.approx(0.1)
    assert DPMSolverPP.for_times(torch.linspace(1, 0.1, 16)).last == 0.0
    network, x = Seen(LinearFlow(), Prediction.FLOW), torch.ones(1, 2)
    with torch.no_grad():
        short, long = (_ours(DPMSolverPP(last=last), network, x, times) for last in (0.1, 0.0))
    assert torch.equal(short[:-1], long[:-1]) and not torch.equal(short[-1], long[-1])


def test_its_steps_cannot_be_scored():
    network, times = Seen(LinearFlow(), Prediction.FLOW), torch.tensor([1.0, 0.6, 0.3])
    assert isinstance(DPMSolverPP(), Sampler)
    trajectory = rollout(network, DPMSolverPP(), condition_of(2), torch.randn(2, 2, 3), times, generators=None)
    with pytest.raises(ConfigError, match="a step of DPMSolverPP depends on the steps before it"):
        step_log_prob(network, DPMSolverPP(), trajectory, [0])
