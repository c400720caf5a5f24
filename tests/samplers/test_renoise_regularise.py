"""ReNoise's regularisers: by hand, sample by sample, and what they do to an inversion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffalign.denoising import VP, LinearFlow, Prediction
from diffalign.exceptions import ShapeError
from diffalign.samplers import WINDOWS, Regularise, ReNoise, invert
from diffalign.samplers.renoise_regularise import autocorrelation, draw_shifts, patch_kl, regularise
from tests.denoising.toys import STABLE_DIFFUSION, Fixed
from tests.samplers.toys import GaussianData, no_condition

SMALL = Regularise(autocorrelation=0.3)  # of planes this small the gradients are larger
VP_TABLE = VP.from_scheduler_config(STABLE_DIFFUSION)


def _generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


def test_autocorrelation_by_hand(generator):
    """Channel by channel, a roll in each direction, then the same of the averages, as the authors' code for one."""
    noise = torch.randn(1, 2, 16, 16, generator=generator, dtype=torch.float64)
    shifts = draw_shifts(noise, _generators(1))
    stream, expected = torch.Generator().manual_seed(0), 0.0
    for channel in range(2):
        plane = noise[:, channel : channel + 1]
        for scale, side in enumerate((16, 8)):
            by = int(torch.randint(0, side // 2, (1,), generator=stream))
            assert shifts[0, channel, scale].item() == by
            for dim in (2, 3):
                expected += (plane * torch.roll(plane, by, dims=dim)).mean().item() ** 2
            plane = F.avg_pool2d(plane, 2)
    assert autocorrelation(noise, shifts).item() == pytest.approx(expected)


def test_patch_kl_by_hand(generator):
    """Of noise like the wanted one it is 0; a patch of twice the spread adds |log(1/4) + 4 - 1| and so on."""
    wanted = torch.randn(2, 3, 8, 12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(patch_kl(wanted, wanted), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-3)
    noise = wanted.clone()
    patch = wanted[1, 2, 4:8, 4:8]
    noise[1, 2, 4:8, 4:8] = patch.mean() + 2 * (patch - patch.mean())
    kl = patch_kl(noise, wanted)
    assert kl[0].item() == pytest.approx(0.0, abs=1e-3)
    assert kl[1].item() == pytest.approx(3 - torch.tensor(4.0).log().item(), abs=1e-3)


def test_gradients_are_those_of_the_losses(generator):
    noise, wanted = torch.randn(2, 1, 1, 8, 8, generator=generator, dtype=torch.float64)
    shifts = draw_shifts(noise, _generators(1))
    noise.requires_grad_()
    assert torch.autograd.gradcheck(lambda each: patch_kl(each, wanted), noise)
    assert torch.autograd.gradcheck(lambda each: autocorrelation(each, shifts), noise)


def test_one_round_by_hand(generator):
    """A clipped step along the KL's gradient, then the steps along the autocorrelation's, each at new shifts."""
    noise, wanted = torch.randn(2, 1, 2, 8, 8, generator=generator)
    noise = noise * 0.002  # far from the wanted spread: gradients beyond the clip
    expected, stream = noise.clone(), _generators(1)

    def slope(loss):
        at = expected.clone().requires_grad_()
        return torch.autograd.grad(loss(at).sum(), at)[0]

    steep = slope(lambda each: patch_kl(each, wanted))
    assert steep.abs().max() > 100
    expected = expected - 0.065 * steep.clip(-100, 100)
    for _ in range(5):
        shifts = draw_shifts(noise, stream)
        expected = expected - 20.0 * slope(lambda each, by=shifts: autocorrelation(each, by)) / 5
    found = regularise(noise, wanted, Regularise(rounds=1), _generators(1))
    torch.testing.assert_close(found, expected)


def test_a_sample_is_regularised_as_if_it_were_alone(generator):
    noise, wanted = torch.randn(2, 3, 4, 16, 16, generator=generator)
    together = regularise(noise, wanted, SMALL, _generators(3))
    for row, stream in enumerate(_generators(3)):
        one = slice(row, row + 1)
        torch.testing.assert_close(regularise(noise[one], wanted[one], SMALL, [stream]), together[one])
    assert patch_kl(together, wanted).sum() < patch_kl(noise, wanted).sum()


def test_regularising_takes_away_correlation(generator):
    smooth = F.avg_pool2d(torch.randn(2, 4, 34, 34, generator=generator), 3, stride=1)
    shifts = draw_shifts(smooth, _generators(2, seed=9))
    found = regularise(smooth, torch.randn_like(smooth), Regularise(kl=0.0, autocorrelation=5.0), _generators(2))
    assert (autocorrelation(found, shifts) < autocorrelation(smooth, shifts)).all()


def test_an_inversion_is_regularised_where_the_average_begins(generator):
    """Passes before the window stay as they are; with one pass the paper's late window is never reached, and nothing is."""
    denoiser = GaussianData(VP_TABLE, Prediction.NOISE)
    x0, condition = torch.randn(2, 3, 8, 8, generator=generator), no_condition(2)

    def found(renoise, t):
        return invert(denoiser, x0, condition, t, steps=1, renoise=renoise, generators=_generators(2)).x_t

    for passes, t, differs in ((1, 0.6, False), (9, 0.6, True), (1, 0.2, True)):
        plain = found(ReNoise(passes, WINDOWS), t)
        changed = found(ReNoise(passes, WINDOWS, SMALL), t)
        assert torch.equal(plain, changed) is not differs


def test_the_regularised_noise_is_what_is_noised_with(generator):
    """A network that always says the same noise e: from t = 0 the end is alpha x0 + sigma regularise(e)."""
    x0, noise = torch.randn(2, 1, 2, 8, 8, generator=generator)
    settings, t = SMALL, torch.full((1,), 0.5)
    told = Fixed(VP_TABLE, Prediction.NOISE, noise)
    renoise = ReNoise(1, None, settings)
    found = invert(told, x0, no_condition(1), t, steps=1, renoise=renoise, generators=_generators(1)).x_t
    stream = _generators(1)
    torch.randn(2, 8, 8, generator=stream[0])  # the noise of the wanted prediction comes first
    wanted = regularise(noise, noise, settings, stream)
    assert (wanted - noise).abs().max() > 1e-3
    torch.testing.assert_close(found, VP_TABLE.alpha(t) * x0 + VP_TABLE.sigma(t) * wanted, rtol=1e-4, atol=1e-5)


def test_a_flow_is_regularised_up_to_pure_noise(generator):
    x0, noise = torch.randn(2, 1, 2, 8, 8, generator=generator)
    flow = Fixed(LinearFlow(), Prediction.FLOW, noise - x0)
    renoise = ReNoise(1, None, SMALL)
    found = invert(flow, x0, no_condition(1), 1.0, steps=2, renoise=renoise, generators=_generators(1)).x_t
    assert found.isfinite().all() and not torch.equal(found, noise)


def test_samples_that_are_no_pictures_are_refused():
    with pytest.raises(ShapeError, match=r"regularise: samples must be \[channels, height, width\] .* got \(3, 7\)"):
        regularise(torch.ones(2, 3, 7), torch.ones(2, 3, 7), Regularise(), _generators(2))
    with pytest.raises(ShapeError, match=r"sides of at least 4, got \(3, 7, 2\)"):
        regularise(torch.ones(2, 3, 7, 2), torch.ones(2, 3, 7, 2), Regularise(), _generators(2))
