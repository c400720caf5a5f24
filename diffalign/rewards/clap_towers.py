"""CLAP's two towers as rewards use them: sound and texts become vectors of length 1. Loaded from transformers' format.

Scores are made in float32: half precision moves them, and the audio tower has batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.rewards.mel import decibels, power_spectrum
from diffalign.rewards.sound_encoder import SoundEncoder
from diffalign.rewards.weights import cannot_load, model_version, pick_device, readable

if TYPE_CHECKING:  # transformers takes seconds to import, and a reward without weights does not need it
    from transformers import ClapModel


class ClapTowers:
    """A CLAP model with its processor, frozen, in float32.

    Attributes:
        rate: samples a second that the model takes, 48000.
        window: samples that it sees at once, 10 s of them.
        tokens: how many of a text it reads, begin and end included; the rest is cut.
        version: changes with the weights, the model's settings, the tokenizer, and how spectra are made.
    """

    def __init__(self, model: ClapModel, processor: Any, *, device: str | None = None, batch: int = 8) -> None:
        """Take a loaded model.

        Args:
            model, processor: as `load_clap` returns them.
            device: cuda, mps or cpu; None: the best that there is.
            batch: windows at a time.

        Raises:
            ConfigError: the device is not there.
        """
        self.device = pick_device(device)
        self.model = model.float().to(self.device).eval().requires_grad_(False)
        self.batch, self.tokenizer = batch, processor.tokenizer
        extractor = processor.feature_extractor
        self.rate, self.window = int(extractor.sampling_rate), int(extractor.nb_max_samples)
        self._padding, self._size, self._hop = extractor.padding, extractor.fft_window_size, extractor.hop_length
        fused = extractor.truncation == "fusion"
        self._filters = torch.from_numpy(extractor.mel_filters if fused else extractor.mel_filters_slaney)
        self._copies = 4 if model.config.audio_config.enable_fusion else 1
        text = model.config.text_config
        self.tokens = int(text.max_position_embeddings) - int(text.pad_token_id) - 1
        spectra = {
            "rate": self.rate,
            "window": self.window,
            "padding": self._padding,
            "size": self._size,
            "hop": self._hop,
        }
        tensors = {**self.model.state_dict(), "mel filters": self._filters}
        self.version = model_version(tensors, [model.config], self.tokenizer, spectra)

    def windows(self, waveforms: Float[Tensor, "windows samples"]) -> Float[Tensor, "windows features"]:
        """Vectors of length 1 of mono sound at `rate`, each of `window` samples at most, with the gradient to them."""
        columns = self.columns(waveforms)
        parts = []
        for first in range(0, len(columns), self.batch):
            part = columns[first : first + self.batch].to(self.device)
            # what is no longer than a window is four times the same to a fused model, and not "longer": transformers'
            # processor says so of all but one of a batch, which it draws
            longer = torch.zeros(len(part), 1, dtype=torch.bool, device=self.device)
            found = self.model.get_audio_features(input_features=part, is_longer=longer)
            parts.append(F.normalize(found.pooler_output, dim=-1))
        return torch.cat(parts)

    def columns(self, waveforms: Float[Tensor, "windows samples"]) -> Float[Tensor, "windows copies time bands"]:
        """The spectra in decibels that the model looks at, as transformers' ClapFeatureExtractor makes them."""
        filled = _filled(waveforms, self.window, self._padding)
        power = power_spectrum(filled.double(), self._size, self._hop, pad="reflect")
        levels = decibels(power @ self._filters.to(power)).float()
        return levels[:, None].expand(-1, self._copies, -1, -1)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1; a text is cut after `tokens`."""
        told = self.tokenizer(
            list(map(readable, texts)), padding=True, truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        with torch.no_grad():
            found = self.model.get_text_features(
                input_ids=told["input_ids"].to(self.device), attention_mask=told["attention_mask"].to(self.device)
            )
        return F.normalize(found.pooler_output, dim=-1).cpu()

    def tokens_cut(self, text: str) -> int:
        """How many tokens of the text the model does not see."""
        return max(len(self.tokenizer(readable(text), verbose=False)["input_ids"]) - self.tokens, 0)


class ClapEncoder(SoundEncoder):
    """CLAP's audio tower as an encoder of sound: features, of length 1, of the 10 s that begin at each second.

    Behind the end lies silence. As microsoft/fadtk frames LAION's CLAP for FAD, but without its rounding to 16 bits.
    """

    name = "clap"

    def __init__(self, towers: ClapTowers) -> None:
        self.towers, self.rate, self.version = towers, towers.rate, f"1-{towers.version}"

    def encode_waveforms(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames features"]:
        count = -(-waveforms.shape[1] // self.rate)
        ended = F.pad(waveforms, (0, (count - 1) * self.rate + self.towers.window - waveforms.shape[1]))
        frames = ended.unfold(1, self.towers.window, self.rate)
        return self.towers.windows(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def load_clap(reward: str, model: str) -> tuple[ClapModel, Any]:
    """A CLAP model and its processor for a reward, from a folder or hub id in transformers' format (safetensors only).

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import ClapModel, ClapProcessor

    try:
        found = ClapModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32)
        processor = ClapProcessor.from_pretrained(model)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{reward}.model: {cannot_load(model, error)}") from None
    return found, processor


def _filled(waveforms: Tensor, length: int, padding: Literal["repeatpad", "repeat", "pad"]) -> Tensor:
    """Short sound made as long as a window: as whole repeats and silence (CLAP's own), as repeats, or by silence alone."""
    samples = waveforms.shape[1]
    times = {"repeatpad": length // samples, "repeat": -(-length // samples), "pad": 1}[padding]
    repeated = waveforms.repeat(1, max(times, 1))[:, :length]
    return F.pad(repeated, (0, length - repeated.shape[1]))
