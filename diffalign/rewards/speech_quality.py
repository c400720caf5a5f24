"""Speech quality without a reference (DNSMOS): how people would rate the sound of speech. The networks are in a wheel."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from diffalign.rewards.media import Audio
from diffalign.rewards.mel import MelBands, decibels, mel_spectrum
from diffalign.rewards.onnx_models import onnx_session
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.rewards.resampling import mono_at
from diffalign.rewards.wheels import PackagedFile, packaged_file

DNSMOS_FILE = PackagedFile(
    package="speechmos",
    version="0.0.1.1",
    member="speechmos/dnsmos_models/sig_bak_ovr.onnx",
    sha256="269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
    licence="MIT",
)
PERSONALISED_FILE = PackagedFile(
    package="speechmos",
    version="0.0.1.1",
    member="speechmos/pdnsmos_models/sig_bak_ovr.onnx",
    sha256="9e3a197449ca2177f0997afec3bd6b890117ce2f17b89d6eea7fa0d47272c81c",
    licence="MIT",
)
P808_FILE = PackagedFile(
    package="speechmos",
    version="0.0.1.1",
    member="speechmos/dnsmos_models/model_v8.onnx",
    sha256="9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
    licence="MIT",
)
_RATE = 16000  # samples a second
_SECONDS = 9.01  # that the networks look at
_WINDOW = int(_SECONDS * _RATE)
_BANDS = MelBands(_RATE, 321, 120, 0.0, 8000.0)
_HOP = 160
_TOP = 80.0  # dB below the loudest band, where P.808's spectrum ends

# from a network's output to a mean opinion score, highest power first: SIG, BAK, OVRL
_FITS = {
    False: (
        (-0.08397278, 1.22083953, 0.0052439),
        (-0.13166888, 1.60915514, -0.39604546),
        (-0.06766283, 1.11546468, 0.04602535),
    ),
    True: (
        (-0.01019296, 0.02751166, 1.19576786, -0.24348726),
        (-0.04976499, 0.44276479, -0.1644611, 0.96883132),
        (-0.00533021, 0.005101, 1.18058466, -0.11236046),
    ),
}
_HIGHEST = 4.644  # where the parabola of OVRL turns


class SpeechQualityReward(SampleReward):
    """How people would rate the sound of speech, by DNSMOS: the mean opinion score OVRL of ITU-T P.835.

    Range: 1 (bad) to 4.6 in practice; no least value. Windows of 9.01 s, one second apart, at 16 kHz; shorter sound is
    repeated. The value is the mean over windows. Made for speech: of other sounds it says little.
    Components: sig, of the voice itself (P.835 SIG); bak, of the background (BAK); p808, of the whole, by the network for
    P.808. Differentiable: no.
    Source: Reddy et al. 2022, "DNSMOS P.835: A Non-Intrusive Perceptual Objective Speech Quality Metric to Evaluate Noise
    Suppressors"; speechmos' dnsmos.py, whose numbers these are.
    """

    components = ("sig", "bak", "p808")

    def __init__(self, *, personalised: bool = False, threads: int = 1) -> None:
        """Find the networks.

        Args:
            personalised: other people's voices count as background (pDNSMOS).
            threads: of onnxruntime.

        Raises:
            MissingExtraError: the wheel or onnxruntime is not there; says how to get it.
        """
        self.personalised, self.threads = personalised, threads
        file = PERSONALISED_FILE if personalised else DNSMOS_FILE
        self.spec = speech_quality_spec(personalised)
        self._p835 = onnx_session(packaged_file(file), "speech_quality", threads)
        self._p808 = onnx_session(packaged_file(P808_FILE), "speech_quality", threads)

    def judge(self, medium: Audio, sample: Sample) -> tuple[float, dict[str, float]]:
        scores = np.mean([self._of_window(window) for window in _windows(mono_at(medium, _RATE))], axis=0)
        sig, bak, overall, p808 = scores.tolist()
        return overall, {"sig": sig, "bak": bak, "p808": p808}

    def _of_window(self, window: NDArray[np.float32]) -> NDArray[np.float64]:
        raw = self._p835.run(None, {"input_1": window[None]})[0][0]
        fitted = [
            np.polyval(fit, one) for fit, one in zip(_FITS[self.personalised], raw.astype(np.float64), strict=True)
        ]
        whole = self._p808.run(None, {"input_1": _p808_input(window)[None]})[0][0]
        return np.array([*fitted, float(whole[0])])


def _windows(wave: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """As speechmos cuts them: doubled until long enough, then one a second; what is left at the end is not heard."""
    wave = wave.clip(-1, 1)
    while len(wave) < _WINDOW:
        wave = np.concatenate([wave, wave])
    count = int(math.floor(len(wave) / _RATE) - _SECONDS) + 1
    starts = range(0, count * _RATE, _RATE)
    return [wave[start : start + _WINDOW] for start in starts if start + _WINDOW <= len(wave)]


def _p808_input(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decibels below the loudest in 120 mel bands, [900, 120], from -1 to 1."""
    power = mel_spectrum(torch.from_numpy(window[:-_HOP])[None].double(), _BANDS, _HOP)[0]
    levels = decibels(power, power.max()).clamp(min=-_TOP)
    return ((levels + 40) / 40).numpy().astype(np.float32)


def speech_quality_spec(personalised: bool = False) -> RewardSpec:
    """What the number means."""
    file = PERSONALISED_FILE if personalised else DNSMOS_FILE
    return RewardSpec(
        name="speech_quality",
        version=f"1-{file.digest}-{P808_FILE.digest}",
        media="audio",
        level="instance",
        unit="mean opinion score",
        range=(-math.inf, math.inf if personalised else _HIGHEST),
        differentiable=False,
        licence="MIT (speechmos' networks)",
        needs=(),
        source='Reddy et al. 2022, "DNSMOS P.835: A Non-Intrusive Perceptual Objective Speech Quality Metric [...]"',
    )
