"""Processes: agreement with diffusers' schedulers at every index, and behaviour between and at the ends."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from diffalign.denoising import BETA_SCHEDULES, EDM, VP, LinearFlow, add_noise
from diffalign.exceptions import ConfigError
from tests.denoising.toys import PROCESSES, STABLE_DIFFUSION

ALL = torch.arange(1000)


def _scheduler(schedule: str, zero_snr: bool) -> DDPMScheduler:
    kind = DDPMScheduler if schedule == "sigmoid" else DDIMScheduler  # DDIM has no sigmoid
    return kind(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule, rescale_betas_zero_snr=zero_snr)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
def test_x_t_is_diffusers_add_noise_to_the_bit_at_every_index(schedule, zero_snr, generator):
    scheduler = _scheduler(schedule, zero_snr)
    process = VP.from_scheduler_config(scheduler.config)
    x0, noise = torch.randn(2, 1000, 3, 2, generator=generator)
    theirs = scheduler.add_noise(x0, noise, ALL)
    assert torch.equal(add_noise(process, x0, noise, process.grid), theirs)
    assert torch.equal(add_noise(process, x0, noise, process.time_of(ALL.float())), theirs)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_x_t_follows_a_table_of_betas(zero_snr, generator):
    scheduler = DDPMScheduler(trained_betas=[0.1, 0.2, 0.4, 0.5], rescale_betas_zero_snr=zero_snr)
    process = VP.from_scheduler_config(scheduler.config)
    x0, noise = torch.randn(2, 1000, 1, generator=generator)
    index = torch.arange(1000) % 4
    assert process.entries == 4
    assert torch.equal(
        add_noise(process, x0, noise, process.time_of(index.float())), scheduler.add_noise(x0, noise, index)
    )


@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_schedule_without_a_name_here_is_taken_from_the_scheduler_s_table(zero_snr, generator):
    scheduler = DDPMScheduler(beta_schedule="laplace", rescale_betas_zero_snr=zero_snr)
    process = VP(scheduler.alphas_cumprod)
    x0, noise = torch.randn(2, 1000, 3, generator=generator)
    assert torch.equal(add_noise(process, x0, noise, process.grid), scheduler.add_noise(x0, noise, ALL))


def test_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match=r"beta_schedule: must be one of linear, .*got 'quadratic'"):
        VP.from_scheduler_config({**STABLE_DIFFUSION, "beta_schedule": "quadratic"})


def test_linear_flow_is_diffusers_scale_noise(generator):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    x0, noise = torch.randn(2, 1000, 4, generator=generator)
    theirs = scheduler.scale_noise(x0, scheduler.timesteps, noise)
    torch.testing.assert_close(add_noise(LinearFlow(shift=3.0), x0, noise, scheduler.sigmas[:1000]), theirs)


@pytest.mark.parametrize("name", PROCESSES)
def test_data_end_has_all_the_signal(name):
    process, zero = PROCESSES[name], torch.zeros(1)
    assert process.alpha(zero).item() == 1
    assert process.sigma(zero).item() == pytest.approx(0.002 if name == "edm" else 0, abs=1e-9)


def test_noise_end():
    one = torch.ones(1)
    assert PROCESSES["vp"].alpha(one).item() == pytest.approx(math.sqrt(0.0046601), rel=1e-5)
    assert PROCESSES["vp_zero_snr"].alpha(one).item() == 0
    assert PROCESSES["vp_zero_snr"].sigma(one).item() == 1
    assert PROCESSES["linear_flow"].alpha(one).item() == 0
    assert PROCESSES["edm"].sigma(one).item() == pytest.approx(80, rel=1e-6)


@pytest.mark.parametrize("name", ["vp", "vp_zero_snr"])
def test_between_the_grid_the_angle_is_interpolated(name):
    process = PROCESSES[name]
    t = torch.linspace(0, 1, 7919)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert alpha.isfinite().all() and sigma.isfinite().all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert (alpha.diff() <= 0).all() and (sigma.diff() >= 0).all()
    half = torch.tensor([999.5 / 1000])
    ends = torch.tensor([0.999, 1.0])
    angles = torch.atan2(process.sigma(ends), process.alpha(ends))
    torch.testing.assert_close(process.alpha(half), angles.mean()[None].cos(), rtol=1e-4, atol=1e-7)


def test_index_and_time_are_inverse_on_the_grid_and_off_it():
    process = PROCESSES["vp"]
    assert torch.equal(process.index(process.grid), ALL.float())
    assert torch.equal(process.time_of(process.index(process.grid)), process.grid)
    off = torch.tensor([0.0, 3.25, 511.75, 998.5])
    torch.testing.assert_close(process.index(process.time_of(off)), off, rtol=1e-6, atol=1e-4)
    assert process.index(torch.tensor([0.5])).item() == 499


def test_index_is_whole_however_the_grid_time_was_rounded():
    process = PROCESSES["vp"]
    for computed in (
        process.grid,
        (ALL + 1).double() / 1000,
        (ALL + 1).float() * 0.001,
        1 - (999 - ALL).float() / 1000,
    ):
        assert torch.equal(process.index(computed).double(), ALL.double())


def test_edm_sigma_follows_karras_and_time_is_its_inverse():
    process = EDM(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(process.time_of(process.sigma(t)), t, rtol=0, atol=1e-12)
    steps = 18  # Karras et al. 2022, eq 5, as printed: from the largest sigma down
    i = torch.arange(steps, dtype=torch.float64)
    printed = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(process.sigma(1 - i / (steps - 1)), printed)
    torch.testing.assert_close(process.time_of(process.sigma(t.float())), t.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_times_are_never_cut(name):
    process = PROCESSES[name]
    for dtype, wide in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        t = torch.tensor([0.25, 0.5], dtype=dtype)
        assert process.alpha(t).dtype == process.sigma(t).dtype == wide


def test_a_process_can_be_compared():
    first, again = VP.from_scheduler_config(STABLE_DIFFUSION), VP.from_scheduler_config(STABLE_DIFFUSION)
    assert first == first
    assert first != again  # by identity: tables are not compared element by element
    assert LinearFlow(3.0) == LinearFlow(3.0) != LinearFlow()
