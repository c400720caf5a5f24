"""What people prefer for a prompt, and what is wrong with a picture: ImageReward-v1.0. The weights are the user's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.config.rewards import ImageRewardParams
from diffalign.exceptions import ConfigError
from diffalign.rewards.blip_weights import Blip, blip_of_authors
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.squares import normalised, square_tensors, squares
from diffalign.rewards.weights import hub_file, load_tokenizer, model_version, pick_device, read_tensors, readable

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's numbers, by the authors
TOKENS = 35  # of a prompt, begin and end included
_REPOSITORY, _FILE = "THUDM/ImageReward", "ImageReward.pt"
_ADDED = ["[DEC]", "[ENC]"]  # BLIP's own tokens, after BERT's


class ImageReward(BatchReward):
    """ImageReward-v1.0: BLIP reads the prompt while it looks at the picture, and a head makes one number of that.

    (head(vector) - 0.1672) / 1.0333, so that 0 is the mean and 1 the deviation over the authors' own pictures. No bound; of
    pictures about -2 to 2. Differentiable: by `score_tensor`. Component: tokens_cut, how many tokens of the prompt the
    model does not see.
    Source: Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation"
    (THUDM/ImageReward, ImageReward.py).
    """

    components = ("tokens_cut",)

    def __init__(self, blip: Blip, tokenizer: Any, *, batch: int = 16, device: str | None = None) -> None:
        """Take a loaded model.

        Args:
            blip: as `blip_of_authors` returns it.
            tokenizer: BERT's (bert-base-uncased); BLIP's two tokens are added to it.
            batch: pictures at a time.
            device: cuda, mps or cpu; None: the best that there is.

        Raises:
            ConfigError: the device is not there, or the tokenizer knows more words than the model.
        """
        tokenizer.add_tokens(_ADDED, special_tokens=True)
        words = blip.text.config.vocab_size
        if len(tokenizer) > words:
            raise ConfigError(
                f"image_reward.tokenizer: it knows {len(tokenizer)} words with {' and '.join(_ADDED)}, and the model "
                f"{words}; take the one that the model was trained with, bert-base-uncased"
            )
        self.device, self.batch, self.tokenizer = pick_device(device), batch, tokenizer
        parts = {
            f"{name}.{key}": each for name, part in blip._asdict().items() for key, each in part.state_dict().items()
        }
        version = model_version(parts, [blip.vision.config, blip.text.config], tokenizer)
        self.spec = image_reward_spec(ImageRewardParams(), version)
        self.blip = Blip(*(part.to(self.device).eval().requires_grad_(False) for part in blip))
        self.side: int = blip.vision.config.image_size

    def judge_batch(self, pictures: Sequence[Pixels], samples: Sequence[Sample]) -> list[Judged]:
        if not pictures:
            return []
        prompts = [sample.prompt for sample in samples]
        with torch.no_grad():
            values = self._of_squares(squares(pictures, self.side, "centre"), prompts).tolist()
        return [
            (value, {"tokens_cut": float(self.tokens_cut(prompt))})
            for value, prompt in zip(values, prompts, strict=True)
        ]

    def score_tensor(
        self, pictures: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to the pictures, in [0, 1]; one prompt for each.

        It differs a little from `score`, where Pillow scales and rounds.
        """
        return self._of_squares(square_tensors(pictures, self.side, "centre"), prompts)

    def tokens_cut(self, prompt: str) -> int:
        """How many tokens of the prompt the model does not see."""
        return max(len(self.tokenizer(readable(prompt), verbose=False)["input_ids"]) - TOKENS, 0)

    def _of_squares(
        self, inputs: Float[Tensor, "batch 3 side side"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        told = self.tokenizer(
            list(map(readable, prompts)), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        seen = self.blip.vision(pixel_values=normalised(inputs.to(self.device, torch.float32))).last_hidden_state
        read = self.blip.text(
            input_ids=told["input_ids"], attention_mask=told["attention_mask"], encoder_hidden_states=seen
        ).last_hidden_state
        values: Tensor = (self.blip.head(read[:, 0]).squeeze(-1) - MEAN) / STD
        return values


def image_reward_spec(params: ImageRewardParams, weights: str = "") -> RewardSpec:
    """What the number means; `weights` are those that it was made with."""
    return RewardSpec(
        name="image_reward",
        version="-".join(filter(None, ("1", weights))),
        media="image",
        level="instance",
        unit="1",
        range=(-math.inf, math.inf),
        differentiable=True,
        licence="Apache-2.0 (the weights)",
        needs=("prompt",),
        source='Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation"',
    )


def load_image_reward(params: ImageRewardParams) -> ImageReward:
    """With the weights that the settings name.

    Raises:
        ConfigError: they, or the tokenizer, cannot be loaded.
    """
    setting = f"{params.name}.weights"
    file = Path(params.weights or hub_file(setting, _REPOSITORY, _FILE))
    if file.is_dir():
        inside = [file / _FILE, *sorted(file.glob("*.safetensors"))]
        found = next((each for each in inside if each.is_file()), None)
        if found is None:
            raise ConfigError(f"{setting}: no {_FILE} and no .safetensors file in {str(file)!r}")
        file = found
    blip = blip_of_authors(read_tensors(setting, file))
    tokenizer = load_tokenizer(params.name, params.tokenizer)
    return ImageReward(blip, tokenizer, batch=params.batch, device=params.device)
