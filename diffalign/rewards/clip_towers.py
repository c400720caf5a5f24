"""CLIP's two towers as rewards use them: pictures and texts become vectors of length 1. Loaded from transformers' format.

Scores are made in float32: half precision moves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from diffalign.exceptions import ConfigError
from diffalign.rewards.pictures import Pixels

if TYPE_CHECKING:  # transformers takes seconds to import, and a reward without weights does not need it
    from transformers import CLIPModel

Fit = Literal["crop", "pad"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipTowers:
    """A CLIP model and its tokenizer, frozen, in float32.

    Attributes:
        features: length of the vectors.
        side: of the pictures that the model takes, in pixels.
        tokens: how many of a text it reads, begin and end included; the rest is cut.
        version: changes with the weights.
        scale: exp(logit_scale), about 100.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any, *, fit: Fit = "crop", device: str | None = None) -> None:
        """Take a loaded model.

        Args:
            model: as `load_clip` returns it.
            tokenizer: its own.
            fit: how a picture becomes a square: `crop` scales the shorter side and cuts the centre out (CLIP's own), `pad`
                scales the longer side and adds black.
            device: cuda, mps or cpu; None: the best that there is.

        Raises:
            ConfigError: the device is not there.
        """
        self.device = choose_device(device)
        self.version = _fingerprint(model.float())
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer, self.fit = tokenizer, fit
        self.side: int = model.config.vision_config.image_size
        self.features: int = model.config.projection_dim
        self.tokens: int = model.config.text_config.max_position_embeddings
        self.scale = float(model.logit_scale.detach().exp())

    def pictures(self, pictures: Sequence[Pixels]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1, with Pillow's bicubic resize, as the models were trained."""
        if not pictures:
            return torch.zeros(0, self.features)
        rows = np.stack([square(pixels, self.side, self.fit) for pixels in pictures])
        inputs = torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return self.of_squares(inputs.to(self.device)).cpu()

    def tensors(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """The same with gradients to the pictures, in [0, 1]. Antialiased bicubic on floats: not rounded as Pillow does."""
        return self.of_squares(self.squares(pictures))

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1; a text is cut after `tokens`."""
        if not texts:
            return torch.zeros(0, self.features)
        with torch.no_grad():
            return self.of_tokens(self.tokens_of(texts)).cpu()

    def tokens_cut(self, text: str) -> int:
        """How many tokens of the text the model does not see."""
        return max(len(self.tokenizer(text, verbose=False)["input_ids"]) - self.tokens, 0)

    # ------------------------------------------------------------ step by step, with gradients to the weights too

    def squares(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 side side"]:
        """Scaled and cut or padded as the model takes them."""
        height, width = pictures.shape[-2:]
        new = _size_of(height, width, self.side, self.fit)
        scaled = F.interpolate(pictures, size=new, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        down, right = (self.side - new[0], self.side - new[1])
        if self.fit == "pad":
            scaled = F.pad(scaled, (right // 2, right - right // 2, down // 2, down - down // 2))
        else:
            top, left = -down // 2, -right // 2
            scaled = scaled[..., top : top + self.side, left : left + self.side]
        return scaled.to(self.device, torch.float32)

    def of_squares(self, squares: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1 of pictures in [0, 1] that have the model's size."""
        mean, std = (torch.tensor(each, device=squares.device)[:, None, None] for each in (MEAN, STD))
        return F.normalize(_projected(self.model.get_image_features(pixel_values=(squares - mean) / std)), dim=-1)

    def tokens_of(self, texts: Sequence[str]) -> Int[Tensor, "batch 2 tokens"]:
        """Token ids, and 1 where there is a token."""
        told = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        return torch.stack([told["input_ids"], told["attention_mask"]], dim=1)

    def of_tokens(self, tokens: Int[Tensor, "batch 2 tokens"]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1."""
        ids, mask = tokens.to(self.device).unbind(1)
        return F.normalize(_projected(self.model.get_text_features(input_ids=ids, attention_mask=mask)), dim=-1)


def choose_device(device: str | None) -> torch.device:
    """The device that is asked for, or the best that there is.

    Raises:
        ConfigError: it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    best = next(name for name, found in there.items() if found)
    if device is not None and not there.get(device.partition(":")[0], False):
        raise ConfigError(f"device: {device!r} is not to be had here; leave it out, or take {best}")
    return torch.device(device or best)


def load_clip(reward: str, model: str, tokenizer: str | None = None) -> tuple[CLIPModel, Any]:
    """A CLIP model and its tokenizer for a reward, from folders or hub ids in transformers' format (safetensors only).

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    from transformers import CLIPModel

    try:
        found = CLIPModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{reward}.model: {_cannot(model, error)}") from None
    return found, load_tokenizer(reward, tokenizer or model)


def load_tokenizer(reward: str, name: str) -> Any:
    """A CLIP tokenizer for a reward.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{reward}.tokenizer: {_cannot(name, error)}") from None


def square(pixels: Pixels, side: int, fit: Fit) -> Pixels:
    """A picture scaled to side x side, [side, side, 3].

    `crop`: the shorter side becomes `side` (CLIP's own preprocessing); `pad`: the longer one does, with black around
    (open_clip's ResizeMaxSize, which HPSv2 is scored with).
    """
    height, width = pixels.shape[:2]
    high, wide = _size_of(height, width, side, fit)
    picture = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC)
    if fit == "pad":
        ground = Image.new("RGB", (side, side))
        ground.paste(picture, ((side - wide) // 2, (side - high) // 2))
        return np.asarray(ground)
    left, top = (wide - side) // 2, (high - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def _size_of(height: int, width: int, side: int, fit: Fit) -> tuple[int, int]:
    if fit == "pad":
        scale = side / max(height, width)
        return max(round(height * scale), 1), max(round(width * scale), 1)
    short = min(height, width)
    return (side, int(side * width / short)) if height <= width else (int(side * height / short), side)


def _projected(found: Any) -> Tensor:
    """transformers 5 returns the projected vectors inside of an output; 4 returned them alone."""
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors


def _fingerprint(module: nn.Module) -> str:
    """Twelve digits that change with the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()[:12]


def _cannot(name: str, error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if Path(name).is_absolute() and not Path(name).exists():  # the hub's library takes it for an id, and a bad one
        first = "no such folder."
    return f"cannot load {name!r}: {first} Give a folder in transformers' format, or a hub id where there is a network"
