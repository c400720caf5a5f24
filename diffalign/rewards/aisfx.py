"""aisfx: a network that was trained to tell sound effects apart, as an encoder of sound. Its weights are in a wheel."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffalign.rewards.mel import MelBands, mel_spectrum
from diffalign.rewards.sound_encoder import SoundEncoder
from diffalign.rewards.wheels import PackagedFile, packaged_file

AISFX_WEIGHTS = PackagedFile(
    package="aisfx",
    version="0.1.2",
    member="aisfx/models/checkpoint.pth",
    sha256="499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
    licence="CC-BY-4.0",
)
_BANDS = MelBands(44100, 2048, 96, 0.0, 22050.0, scale="htk", weighting="unit_sum", triangles="mel")
_HOP = 1024  # samples between columns of the spectrum
_LARGEST = 9.457798957824707  # of the spectra that the network was trained on
_FRAME, _STEP = 100, 50  # columns: 2.3 s, and how far one frame is from the next
_AT_ONCE = 16  # frames


class AisfxEncoder(SoundEncoder):
    """512 features of every 2.3 s of sound, 1.16 s apart, 0 or more; of shorter sound one frame, filled up with silence.

    They tell kinds of sound effects apart (the sound of what), as the network's nine heads did. Loudness counts.
    Source: Ma and Lerch 2022, "Representation Learning for the Automatic Indexing of Sound Effects Libraries". Log spectra
    as its authors make them with Essentia (96 bands, symmetric Hann window). Weights: CC-BY-4.0.
    """

    name = "aisfx"
    version = f"1-{AISFX_WEIGHTS.digest}"
    rate = 44100

    def __init__(self) -> None:
        """Find the weights; they are read at the first call.

        Raises:
            MissingExtraError: the wheel is not there; says how to get it.
        """
        self._weights = packaged_file(AISFX_WEIGHTS)

    def encode_waveforms(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames features"]:
        net = _network(str(self._weights)).to(waveforms.device)
        columns = log_spectrum(waveforms)
        columns = F.pad(columns, (0, 0, 0, max(_FRAME - columns.shape[1], 0)))
        frames = columns.unfold(1, _FRAME, _STEP).transpose(2, 3)  # [batch, frames, 100, 96]
        rows = frames.flatten(0, 1)
        found = torch.cat([net(rows[first : first + _AT_ONCE]) for first in range(0, len(rows), _AT_ONCE)])
        return found.unflatten(0, frames.shape[:2])


def log_spectrum(waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch columns 96"]:
    """What the network looks at: `log10(1e4 power + 1) / 9.458` in 96 mel bands; 0 in silence, about 1 at its loudest."""
    ended = F.pad(waveforms, (0, _HOP - 1))  # a column that has any sound in its first half counts
    power = mel_spectrum(ended, _BANDS, _HOP, symmetric=True)
    return (1e4 * power + 1).log10() / _LARGEST


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


class _Network(nn.Module):
    """The nine-layer network of the DCASE baseline (Kong et al. 2018) that aisfx is, without its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block1, self.conv_block2 = _Block(1, 64, 2), _Block(64, 128, 2)
        self.conv_block3, self.conv_block4 = _Block(128, 256, 2), _Block(256, 512, 1)

    def forward(self, columns: Float[Tensor, "batch time bands"]) -> Float[Tensor, "batch 512"]:
        x = self.conv_block2(self.conv_block1(columns[:, None]))
        x = self.conv_block4(self.conv_block3(x))
        return x.mean(3).amax(2)


@cache
def _network(path: str) -> nn.Module:
    """The network with its weights, read once for all encoders."""
    scalar: Any = np.float64(0).__reduce__()[0]  # the file has numbers of numpy beside the weights: data, no code
    allowed: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Int64DType,
        np.dtypes.Float64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "embedding_net."
    own = OrderedDict((key[len(prefix) :], value) for key, value in weights.items() if key.startswith(prefix))
    net = _Network()
    net.load_state_dict(own)
    return net.eval().requires_grad_(False)
