"""Sound at another rate: a sinc under a Kaiser window, exact to what the window lets through, differentiable."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from diffalign.exceptions import DataError
from diffalign.rewards.media import Audio

# resampy's "kaiser_best", which fadtk resamples with too: zeros of the sinc a side, share of the band that passes, shape
_ZEROS, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492
_LARGEST_KERNEL = 2**24  # numbers: 128 MiB


def resampled(waveform: Float[Tensor, "*batch samples"], rate: int, wanted: int) -> Float[Tensor, "*batch resampled"]:
    """Waveforms at `wanted` samples a second: ceil(samples · wanted / rate) of them. Carries the gradient.

    What lies above 0.95 of half the lower rate is taken out, with 64 zeros of the sinc on each side. Silence is assumed
    before the begin and behind the end. Peaks may pass full scale a little.

    Raises:
        DataError: the two rates have so small a common divisor that the filter would not fit into memory.

    Source: Smith, "Digital Audio Resampling" (ccrma.stanford.edu/~jos/resample); the filter is resampy's kaiser_best, in
    the form of torchaudio's `resample`, which microsoft/fadtk calls with the same numbers.
    """
    if rate == wanted:
        return waveform
    common = math.gcd(rate, wanted)
    old, new = rate // common, wanted // common
    kernel, width = _kernel(old, new)
    kernel = kernel.to(waveform)
    rows = waveform.reshape(-1, 1, waveform.shape[-1])
    found = F.conv1d(F.pad(rows, (width, width + old)), kernel, stride=old)  # [rows, new, steps]
    length = -(-waveform.shape[-1] * new // old)
    return found.transpose(1, 2).reshape(*waveform.shape[:-1], -1)[..., :length]


def mono_at(audio: Audio, rate: int) -> NDArray[np.float32]:
    """The mean of the sound's channels at `rate` samples a second, float32 [samples]."""
    return resampled(torch.from_numpy(audio.mono()), audio.rate, rate).numpy()


@lru_cache(maxsize=16)
def _kernel(old: int, new: int) -> tuple[Tensor, int]:
    """One row of weights for each of `new` places between `old` samples, [new, 1, taps]; taps before the first sample."""
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / base)
    if new * (2 * width + old) > _LARGEST_KERNEL:
        raise DataError(
            f"cannot resample by {new}/{old}: the filter would be too large; rates that people use share a divisor of 25 "
            "or more, so look whether the rate is right"
        )
    samples = torch.arange(-width, width + old, dtype=torch.float64) / old
    apart = (samples - torch.arange(new, dtype=torch.float64)[:, None] / new) * base
    apart = apart.clamp(-_ZEROS, _ZEROS)
    window = torch.special.i0(_BETA * (1 - (apart / _ZEROS) ** 2).clamp(min=0).sqrt())
    window = window / torch.special.i0(torch.tensor(_BETA, dtype=torch.float64))
    return (torch.sinc(apart) * window * (base / old))[:, None], width
