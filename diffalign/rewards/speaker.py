"""Resemblyzer: a network that was trained to tell speakers apart, as an encoder of sound. Its weights are in a wheel."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffalign.exceptions import DataError
from diffalign.rewards.mel import MelBands, mel_spectrum
from diffalign.rewards.sound_encoder import SoundEncoder
from diffalign.rewards.wheels import PackagedFile, packaged_file

SPEAKER_WEIGHTS = PackagedFile(
    package="Resemblyzer",
    version="0.1.4",
    member="resemblyzer/pretrained.pt",
    sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    licence="Apache-2.0",
)
_BANDS = MelBands(16000, 400, 40, 0.0, 8000.0)
_HOP = 160  # samples between columns of the spectrum
_FRAME, _STEP = 160, 77  # columns: 1.6 s, 1.3 times a second
_COVERED = 0.75  # share of the last frame that must be sound
_LOUDNESS = 10 ** (-30 / 20)  # root mean square that quieter sound is raised to


class SpeakerEncoder(SoundEncoder):
    """256 features of every 1.6 s of speech, 0.77 s apart, 0 or more and of length 1 (a GE2E speaker encoder).

    They say who speaks. One row for a whole sample is the frames' mean, at length 1.
    Silence is not cut out of the speech, as Resemblyzer does with webrtcvad: trim it before.
    Source: Wan et al. 2018, "Generalized End-to-End Loss for Speaker Verification"; resemble-ai/Resemblyzer,
    `VoiceEncoder.embed_utterance`.
    """

    name = "speaker"
    version = f"1-{SPEAKER_WEIGHTS.digest}"
    rate = 16000

    def __init__(self) -> None:
        """Find the weights; they are read at the first call.

        Raises:
            MissingExtraError: the wheel is not there; says how to get it.
        """
        self._weights = packaged_file(SPEAKER_WEIGHTS)

    def encode_waveforms(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames features"]:
        loudness = waveforms.square().mean(1, keepdim=True).sqrt()
        if bool((loudness == 0).any()):
            raise DataError("it is silent: nobody speaks")
        waveforms = waveforms * (_LOUDNESS / loudness).clamp(min=1)
        starts = _starts(waveforms.shape[1])
        missing = (starts[-1] + _FRAME) * _HOP - waveforms.shape[1]
        columns = mel_spectrum(F.pad(waveforms, (0, max(missing, 0))), _BANDS, _HOP)
        frames = torch.stack([columns[:, start : start + _FRAME] for start in starts], dim=1)
        net = _network(str(self._weights)).to(waveforms.device)
        return net(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def joined(self, frames: Float[Tensor, "frames features"]) -> Float[Tensor, " features"]:
        return F.normalize(frames.mean(0), dim=0)


def _starts(samples: int) -> list[int]:
    """First columns of the frames: the last one may stand out behind the end by a quarter."""
    columns = math.ceil((samples + 1) / _HOP)
    starts = list(range(0, max(1, columns - _FRAME + _STEP + 1), _STEP))
    if len(starts) > 1 and samples - starts[-1] * _HOP < _COVERED * _FRAME * _HOP:
        starts.pop()
    return starts


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, columns: Float[Tensor, "batch time bands"]) -> Float[Tensor, "batch 256"]:
        _, (hidden, _) = self.lstm(columns)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


@cache
def _network(path: str) -> nn.Module:
    """The network with its weights, read once for all encoders."""
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    net = _Network()
    net.load_state_dict({key: value for key, value in weights.items() if not key.startswith("similarity_")})
    return net.eval().requires_grad_(False)
