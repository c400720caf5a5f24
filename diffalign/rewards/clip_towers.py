"""CLIP's two towers as rewards use them: pictures and texts become vectors of length 1. Loaded from transformers' format.

Scores are made in float32: half precision moves them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ftfy
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.squares import Fit, normalised, square_tensors, squares
from diffalign.rewards.weights import cannot_load, load_tokenizer, model_version, pick_device, readable

if TYPE_CHECKING:  # transformers takes seconds to import, and a reward without weights does not need it
    from transformers import CLIPModel


class ClipTowers:
    """A CLIP model and its tokenizer, frozen, in float32.

    Attributes:
        features: length of the vectors.
        side: of the pictures that the model takes, in pixels.
        tokens: how many of a text it reads, begin and end included; the rest is cut.
        version: changes with the weights, the model's settings, the tokenizer, `fit` and `clean`.
        scale: exp(logit_scale), about 100.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: Any, *, fit: Fit = "crop", clean: bool = False, device: str | None = None
    ) -> None:
        """Take a loaded model.

        Args:
            model: as `load_clip` returns it.
            tokenizer: its own.
            fit: how a picture becomes a square (see `squares.py`): `crop` is CLIP's own.
            clean: read texts through `cleaned_text`, as open_clip does before it tokenizes; transformers does not.
            device: cuda, mps or cpu; None: the best that there is.

        Raises:
            ConfigError: the device is not there.
        """
        self.device = pick_device(device)
        how = {"fit": fit} | ({"clean": ftfy.__version__} if clean else {})
        self.version = model_version(model.float().state_dict(), [model.config], tokenizer, how)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer, self.fit, self._clean = tokenizer, fit, clean
        self.side: int = model.config.vision_config.image_size
        self.features: int = model.config.projection_dim
        self.tokens: int = model.config.text_config.max_position_embeddings
        self.scale = float(model.logit_scale.detach().exp())

    def pictures(self, pictures: Sequence[Pixels]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1, with Pillow's bicubic resize, as the models were trained."""
        if not pictures:
            return torch.zeros(0, self.features)
        with torch.no_grad():
            return self.of_squares(squares(pictures, self.side, self.fit).to(self.device)).cpu()

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
        return max(len(self.tokenizer(self._read(text), verbose=False)["input_ids"]) - self.tokens, 0)

    def _read(self, text: str) -> str:
        return cleaned_text(readable(text)) if self._clean else readable(text)

    # ------------------------------------------------------------ step by step, with gradients to the weights too

    def squares(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 side side"]:
        """Scaled and cut or padded as the model takes them."""
        return square_tensors(pictures, self.side, self.fit).to(self.device, torch.float32)

    def of_squares(self, inputs: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1 of pictures in [0, 1] that have the model's size."""
        return F.normalize(_projected(self.model.get_image_features(pixel_values=normalised(inputs))), dim=-1)

    def tokens_of(self, texts: Sequence[str]) -> Int[Tensor, "batch 2 tokens"]:
        """Token ids, and 1 where there is a token."""
        told = self.tokenizer(
            list(map(self._read, texts)),
            padding="max_length",
            truncation=True,
            max_length=self.tokens,
            return_tensors="pt",
        )
        return torch.stack([told["input_ids"], told["attention_mask"]], dim=1)

    def of_tokens(self, tokens: Int[Tensor, "batch 2 tokens"]) -> Float[Tensor, "batch features"]:
        """Vectors of length 1."""
        ids, mask = tokens.to(self.device).unbind(1)
        return F.normalize(_projected(self.model.get_text_features(input_ids=ids, attention_mask=mask)), dim=-1)


def cleaned_text(text: str) -> str:
    """A text as open_clip and HPSv2 read it: mended by ftfy (curly quotes are straightened), without HTML's escapes.

    Source: open_clip's tokenizer.py, `basic_clean` and `whitespace_clean`; the tokenizer itself makes it lower case.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def load_clip(reward: str, model: str, tokenizer: str | None = None) -> tuple[CLIPModel, Any]:
    """A CLIP model and its tokenizer for a reward, from folders or hub ids in transformers' format (safetensors only).

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    from transformers import CLIPModel

    try:
        found = CLIPModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{reward}.model: {cannot_load(model, error)}") from None
    return found, load_tokenizer(reward, tokenizer or model)


def _projected(found: Any) -> Tensor:
    """transformers 5 returns the projected vectors inside of an output; 4 returned them alone."""
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors
