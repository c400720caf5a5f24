"""DDIM: agreement with diffusers' step, and with the known answer for Gaussian data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffalign.denoising import EDM, VP, Prediction
from diffalign.exceptions import ShapeError
from diffalign.samplers import DDIM, Sampler, sample
from tests.denoising.toys import PROCESSES, STABLE_DIFFUSION, Fixed
from tests.samplers.toys import GaussianData, no_condition

NAMES = {"epsilon": Prediction.NOISE, "v_prediction": Prediction.V, "sample": Prediction.SAMPLE}


def test_it_is_a_sampler():
    assert isinstance(DDIM(), Sampler)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("index", [999, 501, 51, 1])
def test_step_is_diffusers_step(index, kind, eta, generator):
    """Mean and std, and so the state for given noise; tolerance 3e-5 for states of size 1."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=kind,
    )
    scheduler.set_timesteps(20)  # strides of 50
    process = VP.from_scheduler_config(scheduler.config)
    x_t, output, noise = torch.randn(3, 2, 4, 3, 3, generator=generator)
    theirs = scheduler.step(output, index, x_t, eta=eta, variance_noise=noise if eta else None)
    t, t_next = process.time_of(torch.tensor([float(index), float(max(index - 50, 0))])).unsqueeze(1).expand(2, 2)
    ours = DDIM(eta).step(Fixed(process, NAMES[kind], output), x_t, t, t_next, no_condition(2))
    torch.testing.assert_close(ours.x0, theirs.pred_original_sample, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.mean + ours.std * noise, theirs.prev_sample, rtol=1e-5, atol=3e-5)
    assert torch.equal(ours.prediction, output) and ours.density == "gaussian"
    if index > 50:
        variance = scheduler._get_variance(index, index - 50).sqrt()
        torch.testing.assert_close(ours.std.flatten(), (eta * variance).expand(2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_last_step_to_data_is_the_clean_sample(zero_snr, generator):
    process = PROCESSES["vp_zero_snr" if zero_snr else "vp"]
    x_t, output = torch.randn(2, 3, 5, generator=generator)
    t = torch.full((3,), 0.4)
    for eta in (0.0, 1.0):
        step = DDIM(eta).step(Fixed(process, Prediction.V, output), x_t, t, torch.zeros(3), no_condition(3))
        torch.testing.assert_close(step.mean, step.x0)
        assert not step.std.any()


def test_starts_at_zero_terminal_snr_with_v_and_refuses_noise(generator):
    process = PROCESSES["vp_zero_snr"]
    x_t = torch.randn(1, 5, generator=generator)
    t, t_next = torch.ones(1), torch.full((1,), 0.9)
    step = DDIM(1.0).step(Fixed(process, Prediction.V, -x_t), x_t, t, t_next, no_condition(1))
    assert step.mean.isfinite().all() and step.std.isfinite().all()
    with pytest.raises(ShapeError, match="noise prediction does not determine the sample at t = 1"):
        DDIM().step(Fixed(process, Prediction.NOISE, x_t), x_t, t, t_next, no_condition(1))


def _even_times(process, steps):
    """Descending times at equal steps of the angle between data and noise."""
    dense = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    angle = torch.atan2(process.sigma(dense).double(), process.alpha(dense).double())
    wanted = torch.linspace(angle[0].item(), angle[-1].item(), steps + 1, dtype=torch.float64)
    return torch.from_numpy(np.interp(wanted.numpy(), angle.numpy(), dense.numpy())).flip(0)


def _moments(process, eta, steps):
    """Mean and variance at t = 0: with Gaussian data every step is affine in x_t, so they go through exactly."""
    denoiser = GaussianData(process, Prediction.V)
    times = _even_times(process, steps)
    alpha, sigma = process.alpha(times[0]).double(), process.sigma(times[0]).double()
    mean, variance = alpha * denoiser.mean, alpha**2 * denoiser.std**2 + sigma**2  # the exact marginal
    for now, after in itertools.pairwise(times):
        points = torch.stack([mean, mean + 1])[:, None]
        step = DDIM(eta).step(denoiser, points, now.expand(2), after.expand(2), no_condition(2))
        slope = (step.mean[1] - step.mean[0]).item()
        mean, variance = step.mean[0, 0], slope**2 * variance + step.std.flatten()[0].double() ** 2
    return mean.item(), variance.item()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_variance_of_gaussian_data_is_reached(name, eta):
    """With the optimal denoiser of N(0.7, 0.4^2) the error is that of the discretisation: it halves as steps double."""
    process = EDM(sigma_max=20.0) if name == "edm" else PROCESSES[name]
    coarse, fine = (_moments(process, eta, steps) for steps in (50, 100))
    assert fine[0] == pytest.approx(0.7, abs=1e-4)  # the mean is exact
    gaps = [abs(variance / 0.16 - 1) for _, variance in (coarse, fine)]
    assert gaps[1] < 0.1
    assert gaps[1] < 0.6 * gaps[0]
    assert 2 * fine[1] - coarse[1] == pytest.approx(0.16, rel=0.02)  # extrapolated to no step size


def test_a_stochastic_sampler_needs_a_generator_per_sample(generator):
    denoiser, x = GaussianData(PROCESSES["vp"], Prediction.V), torch.randn(3, 2, generator=generator)
    times = torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="one generator per sample"):
        sample(denoiser, DDIM(1.0), no_condition(3), x, times)
    with pytest.raises(ValueError, match="1 generators for 3 samples"):
        sample(denoiser, DDIM(1.0), no_condition(3), x, times, generators=[generator])


def test_noise_of_a_sample_is_its_generators_own():
    denoiser, times = GaussianData(PROCESSES["vp"], Prediction.V), torch.linspace(1, 0, 6)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))

    def draw(rows):
        generators = [torch.Generator().manual_seed(seed) for seed in range(3)][rows]
        return sample(denoiser, DDIM(1.0), no_condition(len(x[rows])), x[rows], times, generators=generators)

    together = draw(slice(None))
    assert len(together.unique()) == 6
    torch.testing.assert_close(torch.cat([draw(slice(row, row + 1)) for row in range(3)]), together)


def test_sampling_records_no_gradient(generator):
    denoiser = Fixed(VP.from_scheduler_config(STABLE_DIFFUSION), Prediction.V, torch.zeros(2, 3, requires_grad=True))
    x = torch.randn(2, 3, generator=generator)
    assert not sample(denoiser, DDIM(), no_condition(2), x, torch.tensor([1.0, 0.0])).requires_grad
