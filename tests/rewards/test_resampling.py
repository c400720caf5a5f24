"""Resampling and mel bands, against scipy and transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from diffalign.exceptions import DataError
from diffalign.rewards import Audio
from diffalign.rewards.mel import MelBands, decibels, mel_filters, mel_spectrum
from diffalign.rewards.resampling import mono_at, resampled
from tests.rewards.sounds import noise


def faded(rate: int, frequency: float = 440.0) -> np.ndarray:
    t = np.arange(rate) / rate
    return np.sin(2 * np.pi * frequency * t) * np.sin(np.pi * t) ** 2


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (48000, 22050), (16000, 44100), (8000, 16000)])
def test_a_tone_keeps_its_shape(rate: int, wanted: int) -> None:
    found = resampled(torch.from_numpy(faded(rate)), rate, wanted).numpy()
    assert found.shape == (wanted,)
    np.testing.assert_allclose(found, faded(wanted), atol=2e-6)


def test_what_the_new_rate_cannot_hold_is_taken_out() -> None:
    waves = {f: resampled(torch.from_numpy(faded(48000, f)), 48000, 16000) for f in (7000, 8200, 12000)}
    heard = {f: wave.abs().max().item() for f, wave in waves.items()}
    assert heard[7000] > 0.99 and heard[8200] < 1e-3 and heard[12000] < 1e-6


def test_nothing_changes_at_the_same_rate_and_lengths_round_up() -> None:
    wave = torch.randn(2, 3, 1001, generator=torch.Generator().manual_seed(0))
    assert resampled(wave, 16000, 16000) is wave
    assert resampled(wave, 48000, 16000).shape == (2, 3, 334)
    torch.testing.assert_close(resampled(wave, 48000, 16000)[1, 2], resampled(wave[1, 2], 48000, 16000))


def test_the_gradient_is_that_of_a_linear_map() -> None:
    wave = torch.randn(1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resampled(x, 3, 2), wave, atol=1e-6)


def test_rates_without_a_common_divisor_are_refused() -> None:
    with pytest.raises(DataError, match="cannot resample by 48000/44101"):
        resampled(torch.zeros(100), 44101, 48000)


def test_channels_are_averaged() -> None:
    tone = faded(16000).astype(np.float32)
    assert np.array_equal(mono_at(Audio(np.stack([tone, -tone]), 16000), 8000), np.zeros(8000, np.float32))


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("weighting", ["slaney", "none"])
def test_filters_are_those_of_transformers(scale: str, weighting: str) -> None:
    theirs = mel_filter_bank(
        513, 64, 50.0, 14000.0, 48000, norm=None if weighting == "none" else weighting, mel_scale=scale
    )
    np.testing.assert_allclose(
        mel_filters(MelBands(48000, 1024, 64, 50.0, 14000.0, scale, weighting)), theirs, atol=1e-12
    )


def test_triangles_over_mel_sum_to_one() -> None:
    theirs = mel_filter_bank(1025, 96, 0.0, 22050.0, 44100, mel_scale="htk", triangularize_in_mel_space=True)
    ours = mel_filters(MelBands(44100, 2048, 96, 0.0, 22050.0, "htk", "unit_sum", "mel"))
    np.testing.assert_allclose(ours, theirs / theirs.sum(0), atol=1e-12)
    np.testing.assert_allclose(ours.sum(0), 1, atol=1e-12)


def test_a_spectrum_in_decibels_is_that_of_transformers() -> None:
    wave, bands = noise(9600).astype(np.float64), MelBands(48000, 1024, 40, 0.0, 14000.0)
    theirs = spectrogram(
        wave, window_function(1024, "hann"), 1024, 480, power=2.0, mel_filters=mel_filters(bands), log_mel="dB"
    )
    ours = decibels(mel_spectrum(torch.from_numpy(wave)[None], bands, 480, pad="reflect"))[0]
    np.testing.assert_allclose(ours.T, theirs, atol=1e-4)
