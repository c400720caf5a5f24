"""Inversion: the sampler's step read backwards, re-estimates that converge, and where each sample ends."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import VP, LinearFlow, Prediction, add_noise
from diffalign.exceptions import ConfigError
from diffalign.samplers import (
    DDIM,
    EVERY_PASS,
    WINDOWS,
    Average,
    FlowEuler,
    ReNoise,
    invert,
    invert_along,
    inverted_draw,
    inverted_noise,
    retrace,
)
from tests.denoising.toys import PROCESSES, STABLE_DIFFUSION, Fixed, Seen, condition_of
from tests.samplers.toys import GaussianData, no_condition

VP_TABLE = VP.from_scheduler_config(STABLE_DIFFUSION)
PLAIN = ReNoise(passes=0)


def _generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("prediction", [each for each in Prediction if each is not Prediction.SAMPLE])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_step_of_a_known_prediction_is_undone(name, prediction, eta, generator):
    """With an answer that does not depend on x, one pass is exact: from u down to s with DDIM, and up again."""
    process = PROCESSES[name]
    above, output = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    denoiser = Fixed(process, prediction, output)
    low, high = 0.31, 0.62
    step = DDIM(eta).step(denoiser, above, high, low, no_condition(3))
    added = torch.stack([torch.randn(5, generator=each, dtype=torch.float64) for each in _generators(3)])
    below = step.mean + step.std * added
    found = invert_along(
        denoiser,
        below,
        no_condition(3),
        torch.tensor([high, low]),
        renoise=ReNoise(passes=0, eta=eta),
        generators=_generators(3),
    )
    torch.testing.assert_close(found.x_t, above, rtol=1e-5, atol=1e-6)  # the tables are float32
    torch.testing.assert_close(found.level, torch.full((3,), high))
    back = retrace(denoiser, DDIM(eta), no_condition(3), found)
    torch.testing.assert_close(back, below, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("name", ["vp", "vp_zero_snr", "linear_flow"])
def test_passes_converge_to_the_exact_inverse(name, prediction, generator):
    """Of a network that depends on x: the error of sampling back falls with every pass, to rounding."""
    denoiser = GaussianData(PROCESSES[name], prediction)
    x0, condition = torch.randn(2, 6, generator=generator, dtype=torch.float64), no_condition(2)
    t = torch.tensor([0.9, 0.33])
    errors = []
    for passes in (0, 2, 25):
        found = invert(denoiser, x0, condition, t, steps=5, renoise=ReNoise(passes, average=None))
        torch.testing.assert_close(found.level, t)
        errors.append((retrace(denoiser, DDIM(), condition, found) - x0).abs().max().item())
    assert errors[1] < errors[0] / 2, errors
    assert errors[2] < 1e-3 * errors[0], errors


def test_euler_is_inverted_on_a_flow(generator):
    denoiser = GaussianData(LinearFlow(), Prediction.FLOW)
    x0, condition = torch.randn(3, 6, generator=generator), no_condition(3)
    found = invert(denoiser, x0, condition, 1.0, steps=5, renoise=ReNoise(20, average=None))
    torch.testing.assert_close(retrace(denoiser, FlowEuler(), condition, found), x0, rtol=1e-4, atol=1e-4)
    # by hand, one step without a pass: z = x0 + t v(x0, t)
    by_hand = x0 + 0.4 * denoiser(x0, torch.full((3,), 0.4), condition)
    plain = invert(denoiser, x0, condition, 0.4, steps=1, renoise=PLAIN).x_t
    torch.testing.assert_close(plain, by_hand)


@pytest.mark.parametrize("prediction", [Prediction.NOISE, Prediction.V])
def test_every_sample_goes_to_its_own_time_whatever_is_beside_it(prediction, generator):
    denoiser = Seen(VP_TABLE, prediction)
    x0, condition = torch.randn(5, 4, generator=generator), condition_of(5)
    t = VP_TABLE.time_of(torch.tensor([0.0, 120.0, 333.0, 500.0, 999.0]))
    together = invert(denoiser, x0, condition, t, steps=7)
    assert torch.equal(together.level, t)
    for row in range(5):
        alone = invert(denoiser, x0[row : row + 1], condition[row : row + 1], t[row : row + 1], steps=7)
        torch.testing.assert_close(alone.x_t, together.x_t[row : row + 1])
    every = invert(denoiser, x0, condition, t, steps=7, every_row=True)
    torch.testing.assert_close(every.x_t, together.x_t)
    in_parts = invert(denoiser, x0, condition, t, steps=7, max_batch=2)
    torch.testing.assert_close(in_parts.x_t, together.x_t)


def test_the_last_step_is_the_part_that_is_left():
    """A grid of 5 and t = 0.5: levels 0.2, 0.4, 0.5, and the network is told each of them twice (one pass)."""
    told = []
    denoiser = Seen(VP_TABLE, Prediction.NOISE, look=lambda x, t, condition: told.extend(t.tolist()))
    found = invert(denoiser, torch.ones(1, 3), condition_of(1), 0.5, steps=5)
    torch.testing.assert_close(torch.tensor(told), torch.tensor([0.2, 0.2, 0.4, 0.4, 0.5, 0.5]))
    torch.testing.assert_close(found.route.levels.flatten().unique(), torch.tensor([0.0, 0.2, 0.4, 0.5]))


def test_every_row_is_asked_equally_often():
    """Processes that hold pieces of one network must call it equally often, whatever their times."""
    calls = []
    for t in (0.1, 0.9):
        denoiser = Seen(VP_TABLE, Prediction.NOISE)
        invert(denoiser, torch.ones(2, 3), condition_of(2), t, steps=5, every_row=True)
        calls.append(denoiser.batches)
    assert calls[0] == calls[1] == [2] * 10


def test_an_inversion_records_no_gradient():
    denoiser = Seen(VP_TABLE, Prediction.NOISE)
    x0 = torch.ones(2, 3, requires_grad=True)
    assert not invert(denoiser, x0, condition_of(2), 0.5).x_t.requires_grad
    assert not any(denoiser.had_grad)
    draw = inverted_draw(denoiser, x0[:, None], condition_of(2), torch.full((2, 1), 0.5))
    assert not draw.noise.requires_grad


def test_windows_of_the_paper(generator):
    """9 passes above timestep 250 and 5 below it; the mean is of passes 8 and 9, or of 0 to 4."""
    x0, condition = torch.randn(1, 4, generator=generator), condition_of(1)
    for index, passes, window in ((249.0, 5, range(5)), (250.0, 9, range(8, 10))):
        denoiser = Seen(VP_TABLE, Prediction.NOISE)
        t = VP_TABLE.time_of(torch.tensor(index))
        found = invert(denoiser, x0, condition, t, steps=1, renoise=ReNoise(9, WINDOWS))
        assert len(denoiser.batches) == passes + 1
        estimates, x = [], x0
        for _ in range(passes + 1):
            estimates.append(denoiser(x, t.expand(1), condition).detach())
            x = VP_TABLE.alpha(t) * x0 + VP_TABLE.sigma(t) * estimates[-1]  # from t = 0
        mean = torch.stack([estimates[number] for number in window]).mean(0)
        torch.testing.assert_close(found.x_t, VP_TABLE.alpha(t) * x0 + VP_TABLE.sigma(t) * mean)


def test_a_window_that_is_not_reached_averages_nothing(generator):
    x0, condition = torch.randn(2, 4, generator=generator), condition_of(2)
    denoiser = Seen(VP_TABLE, Prediction.NOISE)
    late = torch.tensor([0.6, 0.9])
    windowed = invert(denoiser, x0, condition, late, steps=1, renoise=ReNoise(1, WINDOWS)).x_t
    assert torch.equal(windowed, invert(denoiser, x0, condition, late, steps=1, renoise=ReNoise(1, None)).x_t)
    every = invert(denoiser, x0, condition, late, steps=1, renoise=ReNoise(1, EVERY_PASS)).x_t
    assert (every - windowed).abs().max() > 1e-4
    assert Average() == EVERY_PASS


def test_the_draw_leads_to_the_inverted_sample(generator):
    for process, prediction in ((VP_TABLE, Prediction.NOISE), (LinearFlow(), Prediction.FLOW)):
        denoiser = Seen(process, prediction)
        x0 = torch.randn(3, 2, 4, generator=generator)
        condition, t = condition_of(3), torch.rand(3, 2, generator=generator) * 0.9 + 0.05
        draw = inverted_draw(denoiser, x0, condition, t, steps=4)
        assert draw.t is t and draw.network_time is None
        flat = x0.flatten(0, 1)
        x_t = add_noise(process, flat, draw.noise.flatten(0, 1), t.flatten())
        expected = invert(denoiser, flat, condition.expand(2), t.flatten(), steps=4).x_t
        torch.testing.assert_close(x_t, expected, rtol=1e-5, atol=1e-5)


def test_where_there_is_no_noise_none_is_found():
    x0 = torch.ones(2, 3)
    noise = inverted_noise(x0, x0, LinearFlow(), torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(noise, torch.tensor([[0.0], [1.0]]).expand(2, 3))


def test_noise_of_a_stochastic_sampler_is_corrected(generator):
    """With it, sampling back comes nearer; it moves at most 10 times 1.8 in L2 norm."""
    denoiser = GaussianData(VP_TABLE, Prediction.NOISE)
    x0, condition, times = (
        torch.randn(2, 4, 24, 24, generator=generator),
        no_condition(2),
        torch.linspace(0.002, 0.9, 6),
    )
    errors, noise = [], []
    for correct in (False, True):
        renoise = ReNoise(0, None, eta=1.0, correct_noise=correct)
        found = invert_along(denoiser, x0, condition, times, renoise=renoise, generators=_generators(2))
        noise.append(torch.stack(found.noise))
        errors.append((retrace(denoiser, DDIM(1.0), condition, found) - x0).square().mean().item())
    assert errors[1] < 0.8 * errors[0], errors
    moved = (noise[1] - noise[0]).flatten(2).norm(dim=2)
    assert moved.max() <= 18.001 and moved.max() > 1


def test_a_correction_ends_within_a_step_of_the_noise_that_is_wanted(generator):
    """One step whose required noise is known: nearer than 18, so it goes to and fro around it."""
    output, below = torch.randn(2, 1, 3, 4, 4, generator=generator)
    denoiser, ends = Fixed(VP_TABLE, Prediction.NOISE, output), torch.tensor([0.5, 0.6])
    renoise = ReNoise(0, None, eta=1.0, correct_noise=True)
    found = invert_along(denoiser, below, no_condition(1), ends, renoise=renoise, generators=_generators(1))
    step = DDIM(1.0).step(denoiser, found.x_t, 0.6, 0.5, no_condition(1))
    wanted = (below - step.mean) / step.std
    assert 0 < (found.noise[0] - wanted).norm() <= 1.81


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="correct_noise: corrects the noise that a stochastic sampler adds"):
        ReNoise(correct_noise=True)
    with pytest.raises(ConfigError, match="passes: must be at least 0"):
        ReNoise(passes=-1)
    with pytest.raises(ConfigError, match=r"eta: must be from 0 to 1, got 1\.5"):
        ReNoise(eta=1.5)
    denoiser, x0 = Seen(VP_TABLE, Prediction.NOISE), torch.ones(2, 3)
    with pytest.raises(ConfigError, match=r"generators: .* one per sample \(2\), got none"):
        invert(denoiser, x0, condition_of(2), 0.5, renoise=ReNoise(eta=1.0))
    with pytest.raises(ConfigError, match="steps: must be from 1 to the 1000 of the process, got 1001"):
        invert(denoiser, x0, condition_of(2), 0.5, steps=1001, snap="floor")
    with pytest.raises(ConfigError, match="steps: must be from 1"):
        invert(denoiser, x0, condition_of(2), 0.5, steps=0)
