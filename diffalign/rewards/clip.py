"""Rewards that are a cosine of CLIP's two towers: CLIP score, PickScore and HPSv2. The weights are the user's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from diffalign.config.rewards import ClipParams, HPSParams, PickScoreParams
from diffalign.rewards.clip_towers import ClipTowers, load_clip
from diffalign.rewards.open_clip_weights import load_hps, load_open_clip
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample


class CosineReward(BatchReward):
    """What the rewards of this file share: towers, texts, and what is made of the cosine.

    Components: cosine; tokens_cut, how many tokens of the prompt the model does not see.
    """

    components = ("cosine", "tokens_cut")

    def __init__(self, towers: ClipTowers, spec: RewardSpec, batch: int) -> None:
        self.towers, self.spec, self.batch = towers, spec, batch

    @abstractmethod
    def of_cosine(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The reward, of the cosine of picture and text."""

    def text_of(self, prompt: str) -> str:
        """What the model reads."""
        return prompt

    def judge_batch(self, pictures: Sequence[Pixels], samples: Sequence[Sample]) -> list[Judged]:
        cosine = self._cosine(self.towers.pictures(pictures), [sample.prompt for sample in samples])
        values = self.of_cosine(cosine)
        cut = {prompt: self.towers.tokens_cut(self.text_of(prompt)) for prompt in {each.prompt for each in samples}}
        judged: list[Judged] = []
        for sample, value, part in zip(samples, values.tolist(), cosine.tolist(), strict=True):
            parts = {"cosine": part, "tokens_cut": float(cut[sample.prompt])}
            judged.append((value, parts))
        return judged

    def score_tensor(
        self, pictures: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to the pictures, in [0, 1].

        It differs a little from `score`, where Pillow scales and rounds: by up to 0.005 in the cosine of the tests' model.
        """
        return self.of_cosine(self._cosine(self.towers.tensors(pictures), prompts))

    def _cosine(self, vectors: Float[Tensor, "batch features"], prompts: Sequence[str]) -> Float[Tensor, " batch"]:
        known = list(dict.fromkeys(prompts))
        texts = self.towers.texts([self.text_of(prompt) for prompt in known]).to(vectors)
        return (vectors * texts[[known.index(prompt) for prompt in prompts]]).sum(-1)


class CLIPReward(CosineReward):
    """How well a picture agrees with its prompt, to CLIP.

    Range: cosine [-1, 1], of pictures and their captions 0.15 to 0.40; clipscore [0, 2.5], 2.5 max(cosine, 0) of
    "A photo depicts PROMPT", 0.4 to 0.9. Differentiable: by `score_tensor`.
    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"; clipscore: Hessel
    et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning".
    """

    def __init__(self, towers: ClipTowers, *, form: Literal["cosine", "clipscore"] = "cosine", batch: int = 16) -> None:
        self.form = form
        super().__init__(towers, clip_spec(ClipParams(form=form), towers.version), batch)

    def of_cosine(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return cosine if self.form == "cosine" else 2.5 * cosine.clamp(min=0)

    def text_of(self, prompt: str) -> str:
        return prompt if self.form == "cosine" else f"A photo depicts {prompt}"


class PickScoreReward(CosineReward):
    """Which picture people would pick for a prompt: exp(logit_scale) times the cosine.

    Range: about [-100, 100], of pictures 17 to 24; only differences between pictures of one prompt mean something: a
    difference d says that the better one is picked with probability sigmoid(d). Flow-GRPO and others divide by 26.
    Differentiable: by `score_tensor`.
    Source: Kirstain et al. 2023, "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation".
    """

    def __init__(self, towers: ClipTowers, *, batch: int = 16) -> None:
        super().__init__(towers, pickscore_spec(PickScoreParams(), towers.version, towers.scale), batch)

    def of_cosine(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return self.towers.scale * cosine


class HPSReward(CosineReward):
    """Human preference score v2: the cosine, without the scale.

    Range: [-1, 1], of pictures 0.20 to 0.35; leaderboards print it times 100. Pictures that are not square are padded, as
    its authors score them. Differentiable: by `score_tensor`.
    Source: Wu et al. 2023, "Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of
    Text-to-Image Synthesis".
    """

    def __init__(self, towers: ClipTowers, *, release: Literal["v2.0", "v2.1"] = "v2.1", batch: int = 16) -> None:
        super().__init__(towers, hps_spec(HPSParams(release=release), towers.version), batch)

    def of_cosine(self, cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return cosine


def clip_spec(params: ClipParams, weights: str = "") -> RewardSpec:
    """What the number means; `weights` are those that it was made with."""
    return _spec(
        "clip",
        ("1", params.form, weights),
        (-1.0, 1.0) if params.form == "cosine" else (0.0, 2.5),
        licence="the weights' own (OpenAI's: MIT)",
        source='Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"',
    )


def pickscore_spec(params: PickScoreParams, weights: str = "", scale: float = 100.0) -> RewardSpec:
    """What the number means; `weights` are those that it was made with."""
    return _spec(
        "pickscore",
        ("1", weights),
        (-scale, scale),
        licence="MIT (the weights)",
        source='Kirstain et al. 2023, "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation"',
    )


def hps_spec(params: HPSParams, weights: str = "") -> RewardSpec:
    """What the number means; `weights` are those that it was made with."""
    return _spec(
        "hps",
        ("1", params.release, weights),
        (-1.0, 1.0),
        licence="Apache-2.0 (the weights)",
        source='Wu et al. 2023, "Human Preference Score v2"',
    )


def _spec(name: str, version: Sequence[str], bounds: tuple[float, float], *, licence: str, source: str) -> RewardSpec:
    return RewardSpec(
        name=name,
        version="-".join(filter(None, version)),
        media="image",
        level="instance",
        unit="1",
        range=bounds,
        differentiable=True,
        licence=licence,
        needs=("prompt",),
        source=source,
    )


def load_clip_reward(params: ClipParams) -> CLIPReward:
    """With the weights that the settings name."""
    if params.weights is None:
        towers = ClipTowers(*load_clip(params.name, params.model), device=params.device)
    else:  # open_clip cuts as torchvision does, and cleans texts
        loaded = load_open_clip(params.name, params.weights, params.model, activation=params.activation)
        towers = ClipTowers(*loaded, fit="centre", clean=True, device=params.device)
    return CLIPReward(towers, form=params.form, batch=params.batch)


def load_pickscore(params: PickScoreParams) -> PickScoreReward:
    """With the weights that the settings name."""
    return PickScoreReward(
        ClipTowers(*load_clip(params.name, params.model, params.tokenizer), device=params.device), batch=params.batch
    )


def load_hps_reward(params: HPSParams) -> HPSReward:
    """With the weights that the settings name."""
    towers = ClipTowers(*load_hps(params), fit="pad", clean=True, device=params.device)
    return HPSReward(towers, release=params.release, batch=params.batch)
