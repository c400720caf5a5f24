"""How good a video is, how well it moves, how well it shows its prompt: VideoAlign's VideoReward. Weights: the user's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffalign.config.rewards import VideoRewardParams
from diffalign.exceptions import DataError
from diffalign.rewards.media import Video
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.video_frames import DEEP, MERGE, PATCH, frame_places, frame_size, patches_of, scaled_frames
from diffalign.rewards.video_reward_weights import PARTS, TOKENS, VideoRewardModel, load_video_reward_model
from diffalign.rewards.weights import pick_device, readable

_ASKED = Path(__file__).with_name("video_reward_prompt.txt")
_SEEN = "<|video_pad|>"
_READ_OFF = (*TOKENS, _SEEN, "<|image_pad|>")  # a prompt with one of these would be read at the wrong place
# Qwen2-VL's own template for one message of a user
_BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
_BETWEEN, _AFTER = "<|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n"


class VideoReward(BatchReward):
    """VideoReward: Qwen2-VL-2B sees the video and reads a question; at three tokens of it a head reads the answers off.

    Components VQ (visual quality), MQ (motion quality) and TA (agreement with the prompt), each less the mean and over the
    deviation that its authors found: no bound, mostly -3 to 3. The value is their sum. VQ and MQ stand before the prompt in
    the question, so they do not depend on it. Not differentiable.
    Source: Liu et al. 2025, "Improving Video Generation with Human Feedback" (KwaiVGI/VideoAlign: inference.py, trainer.py,
    vision_process.py).
    """

    components = PARTS

    def __init__(
        self,
        parts: VideoRewardModel,
        *,
        fps: float | None = None,
        max_pixels: int | None = None,
        batch: int = 1,
        device: str | None = None,
    ) -> None:
        """Take a loaded model.

        Args:
            parts: as `load_video_reward_model` returns it.
            fps: frames a second that it sees; None: as it was published (2).
            max_pixels: of a frame that it sees; None: as it was published (200,704).
            batch: videos at a time.
            device: cuda, mps or cpu; None: the best that there is.

        Raises:
            ConfigError: the device is not there.
        """
        self.device, self.batch = pick_device(device), batch
        self.fps, self.max_pixels = fps or parts.config.fps, max_pixels or parts.config.max_pixels
        self.model = parts.model.to(self.device).eval().requires_grad_(False)
        self.head, self.mean, self.std = (
            each.to(self.device, torch.float32)
            for each in (parts.head, torch.tensor(parts.config.mean), torch.tensor(parts.config.std))
        )
        self.tokenizer = parts.tokenizer
        precision = "" if self.model.dtype == torch.float32 else "bf16-"
        seen = f"{self.fps:g}fps-{self.max_pixels}px-{precision}{parts.version}"
        self.spec = video_reward_spec(VideoRewardParams(), seen)

    def judge_batch(self, videos: Sequence[Video], samples: Sequence[Sample]) -> list[Judged]:
        judged: list[Judged] = []
        good: list[tuple[int, Tensor, tuple[int, int, int], str]] = []
        for place, (video, sample) in enumerate(zip(videos, samples, strict=True)):
            try:
                patches, grid = self.seen(video)
                good.append((place, patches, grid, self.asked(sample.prompt, math.prod(grid) // MERGE**2)))
                judged.append("")
            except DataError as error:
                judged.append(str(error))
        if good:
            places, patches_of_each, grids, texts = zip(*good, strict=True)
            for place, row in zip(places, self._of_inputs(patches_of_each, grids, texts).tolist(), strict=True):
                judged[place] = sum(row), dict(zip(PARTS, row, strict=True))
        return judged

    def seen(self, video: Video) -> tuple[Float[Tensor, "patches values"], tuple[int, int, int]]:
        """The patches of a video, and how many there are in time, down and across.

        Raises:
            DataError: it has fewer than two frames, or frames that are far too long.
        """
        places = frame_places(len(video.frames), video.fps, wanted=self.fps)
        high, wide = frame_size(*video.frames.shape[1:3], most=self.max_pixels)
        frames = scaled_frames(
            torch.from_numpy(video.frames[places]), (high, wide)
        )  # on the CPU: devices round differently
        return patches_of(frames).to(self.device), (len(places) // DEEP, high // PATCH, wide // PATCH)

    def asked(self, prompt: str, tokens: int) -> str:
        """What the model reads: a video of so many tokens, and the authors' question about it.

        Raises:
            DataError: the prompt holds a token that the score is read off.
        """
        for token in _READ_OFF:
            if token in prompt:
                raise DataError(f"its prompt holds {token}, which is the model's own")
        question = _question().replace("{text_prompt}", prompt)
        return f"{_BEFORE}{_SEEN * tokens}{_BETWEEN}{question}{_AFTER}"

    def _of_inputs(
        self, patches: Sequence[Tensor], grids: Sequence[tuple[int, int, int]], texts: Sequence[str]
    ) -> Float[Tensor, "batch 3"]:
        rows = [torch.tensor(self.tokenizer(readable(text), add_special_tokens=False)["input_ids"]) for text in texts]
        words = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0).to(self.device)
        there = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self.device)
        # The authors' forward gives no positions, and their transformers then counts on: time, height and width of the
        # video's tokens are their place in the text, as it was trained.
        places = torch.arange(words.shape[1], device=self.device).expand(3, len(rows), -1)
        with torch.no_grad():
            found = self.model(
                input_ids=words,
                attention_mask=there,
                position_ids=places,
                pixel_values_videos=torch.cat(list(patches)),
                video_grid_thw=torch.tensor(grids, device=self.device),
                use_cache=False,
            ).last_hidden_state
        own = torch.stack([found[words == each] for each in self.tokenizer.convert_tokens_to_ids(list(TOKENS))], dim=1)
        values: Tensor = ((own.float() * self.head).sum(-1) - self.mean) / self.std
        return values


@cache
def _question() -> str:
    return _ASKED.read_text(encoding="utf-8").split("\n-----\n", 1)[1]


def video_reward_spec(params: VideoRewardParams, weights: str = "") -> RewardSpec:
    """What the number means; `weights` are those that it was made with, and what they see of a video."""
    return RewardSpec(
        name="video_reward",
        version="-".join(filter(None, ("1", weights))),
        media="video",
        level="instance",
        unit="1",
        range=(-math.inf, math.inf),
        differentiable=False,
        licence="Apache-2.0 (the weights); the question: MIT",
        needs=("prompt",),
        source='Liu et al. 2025, "Improving Video Generation with Human Feedback" (VideoAlign)',
    )


def load_video_reward(params: VideoRewardParams) -> VideoReward:
    """With the weights that the settings name.

    Raises:
        ConfigError: they cannot be loaded.
    """
    return VideoReward(
        load_video_reward_model(params),
        fps=params.fps,
        max_pixels=params.max_pixels,
        batch=params.batch,
        device=params.device,
    )
