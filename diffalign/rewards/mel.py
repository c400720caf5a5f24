"""Spectra in mel bands, as the models that judge sound were trained on them. Differentiable; no librosa."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Scale = Literal["htk", "slaney"]
Weighting = Literal["slaney", "unit_sum", "none"]
Pad = Literal["constant", "reflect"]


class MelBands(NamedTuple):
    """A bank of triangular filters over the bins of a Fourier transform.

    Attributes:
        rate: samples a second.
        size: samples of the transform.
        bands: how many filters.
        low, high: of the first and last filter, in Hz.
        scale: htk, `2595 log10(1 + f / 700)`; slaney, linear up to 1000 Hz.
        weighting: slaney, each filter divided by half its width in Hz; unit_sum, by the sum of its weights; none.
        triangles: whether the sides are straight over Hz or over mel.
    """

    rate: int
    size: int
    bands: int
    low: float
    high: float
    scale: Scale = "slaney"
    weighting: Weighting = "slaney"
    triangles: Literal["hz", "mel"] = "hz"


def power_spectrum(
    waveform: Float[Tensor, "batch samples"], size: int, hop: int, *, pad: Pad = "constant", symmetric: bool = False
) -> Float[Tensor, "batch frames bins"]:
    """Squared magnitudes under a Hann window of `size` samples, one frame every `hop` of them.

    The first frame is centred at the first sample, the last before the end. Beyond the ends lies silence (librosa,
    Essentia) or the sound mirrored (transformers). A symmetric window ends in its zero, a periodic one (librosa's) before.
    """
    window = torch.hann_window(size, periodic=not symmetric, dtype=waveform.dtype, device=waveform.device)
    found = torch.stft(waveform, size, hop, window=window, center=True, pad_mode=pad, return_complex=True)
    return found.abs().square().transpose(1, 2)


def mel_spectrum(
    waveform: Float[Tensor, "batch samples"],
    bands: MelBands,
    hop: int,
    *,
    pad: Pad = "constant",
    symmetric: bool = False,
) -> Float[Tensor, "batch frames bands"]:
    """Power in mel bands, frame by frame; see `power_spectrum`."""
    power = power_spectrum(waveform, bands.size, hop, pad=pad, symmetric=symmetric)
    return power @ torch.from_numpy(mel_filters(bands)).to(power)


def decibels(power: Tensor, reference: float | Tensor = 1.0, least: float = 1e-10) -> Tensor:
    """`10 log10(max(power, least) / max(reference, least))`."""
    base = torch.as_tensor(reference, dtype=power.dtype, device=power.device)
    return 10 * (power.clamp(min=least).log10() - base.clamp(min=least).log10())


@lru_cache(maxsize=16)
def mel_filters(bands: MelBands) -> NDArray[np.float64]:
    """The weights, [bins, bands]. Of bins so wide that none falls into a narrow filter, that filter is 0 everywhere.

    Source: librosa's `filters.mel`; for triangles over mel, Essentia's MelBands (2.1-beta6). transformers'
    `mel_filter_bank` makes the same of even sizes (of odd ones it takes the last bin for half the rate).
    """
    frequencies = np.fft.rfftfreq(bands.size, 1 / bands.rate)
    low, high = _mels(np.array([bands.low, bands.high]), bands.scale)
    corners = _hertz(np.linspace(low, high, bands.bands + 2), bands.scale)
    over = (lambda f: _mels(f, bands.scale)) if bands.triangles == "mel" else (lambda f: f)
    at, ends = over(frequencies)[:, None], over(corners)
    up = (at - ends[:-2]) / np.diff(ends)[:-1]
    down = (ends[2:] - at) / np.diff(ends)[1:]
    weights = np.maximum(np.minimum(up, down), 0)
    if bands.weighting == "slaney":
        return weights * (2 / (corners[2:] - corners[:-2]))
    if bands.weighting == "unit_sum":
        return weights / np.maximum(weights.sum(0), 1e-30)
    return weights


def _mels(frequencies: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    if scale == "htk":
        return 2595 * np.log10(1 + frequencies / 700)
    above = 15 + 27 * np.log(np.maximum(frequencies, 1000) / 1000) / np.log(6.4)
    return np.where(frequencies < 1000, frequencies * 3 / 200, above)


def _hertz(mels: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(np.log(6.4) * (np.maximum(mels, 15) - 15) / 27))
