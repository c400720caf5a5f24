"""CLAP score: how well a sound agrees with its prompt. The weights are the user's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.config.sound_rewards import ClapParams
from diffalign.exceptions import ShapeError
from diffalign.rewards.clap_towers import ClapTowers, load_clap
from diffalign.rewards.media import Audio
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.resampling import resampled


class CLAPReward(BatchReward):
    """How well a sound agrees with its prompt, to CLAP: the cosine of the two, the mean over windows of 10 s.

    Range: [-1, 1], of sounds and their captions 0.2 to 0.6. The fewest windows that cover the sound, evenly spaced, the
    first at its begin and the last at its end; shorter sound is repeated as CLAP was trained. Nothing is drawn.
    Components: windows; tokens_cut, how many tokens of the prompt the model does not see.
    Differentiable: by `score_tensor`.
    Source: Wu et al. 2023, "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
    Keyword-to-Caption Augmentation" (LAION-CLAP), in transformers' form.
    """

    components = ("windows", "tokens_cut")

    def __init__(self, towers: ClapTowers, *, batch: int = 16) -> None:
        self.towers, self.spec, self.batch = towers, clap_spec(ClapParams(), towers.version), batch

    def judge_batch(self, media: Sequence[Audio], samples: Sequence[Sample]) -> list[Judged]:
        judged: list[Judged] = []
        cut = {prompt: self.towers.tokens_cut(prompt) for prompt in {sample.prompt for sample in samples}}
        texts = self._texts([sample.prompt for sample in samples])
        for audio, sample, text in zip(media, samples, texts, strict=True):
            with torch.no_grad():
                wave = resampled(torch.from_numpy(audio.mono())[None], audio.rate, self.towers.rate)
                cosines = self._cosines(wave, text[None])[0]
            facts = {"windows": float(len(cosines)), "tokens_cut": float(cut[sample.prompt])}
            judged.append((float(cosines.mean()), facts))
        return judged

    def score_tensor(
        self, waveforms: Float[Tensor, "batch samples"], prompts: Sequence[str], *, rate: int
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to mono waveforms in [-1, 1] at `rate` samples a second: what `score` gives of them.

        Raises:
            ShapeError: not one prompt for each.
        """
        if len(prompts) != len(waveforms):
            raise ShapeError(f"prompts must be one for each of {len(waveforms)} waveforms, got {len(prompts)}")
        return self._cosines(resampled(waveforms, rate, self.towers.rate), self._texts(prompts)).mean(1)

    def _cosines(
        self, waveforms: Float[Tensor, "batch samples"], texts: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch windows"]:
        starts = window_starts(waveforms.shape[1], self.towers.window)
        windows = torch.stack([waveforms[:, start : start + self.towers.window] for start in starts], dim=1)
        vectors = self.towers.windows(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
        return torch.einsum("bwf,bf->bw", vectors, texts.to(vectors))

    def _texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch features"]:
        known = list(dict.fromkeys(prompts))
        return self.towers.texts(known)[[known.index(prompt) for prompt in prompts]]


def window_starts(samples: int, window: int) -> list[int]:
    """First samples of the fewest windows that cover all, evenly spaced from the begin to the end."""
    count = max(-(-samples // window), 1)
    return [round(turn * (samples - window) / (count - 1)) for turn in range(count)] if count > 1 else [0]


def clap_spec(params: ClapParams, weights: str = "") -> RewardSpec:
    """What the number means; `weights` are those that it was made with."""
    return RewardSpec(
        name=params.name,
        version="-".join(filter(None, ("1", weights))),
        media="audio",
        level="instance",
        unit="1",
        range=(-1.0, 1.0),
        differentiable=True,
        licence="the weights' own (LAION's: Apache-2.0)",
        needs=("prompt",),
        source='Wu et al. 2023, "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion [...]"',
    )


def load_clap_reward(params: ClapParams) -> CLAPReward:
    """With the weights that the settings name."""
    towers = ClapTowers(*load_clap(params.name, params.model), device=params.device, batch=params.batch)
    return CLAPReward(towers, batch=params.batch)
