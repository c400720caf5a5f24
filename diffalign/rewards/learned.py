"""A reward that was trained on comparisons: a folder of settings and weights, one head a dimension.

The folder holds `config.json` (what the network is, the dimensions and their weights, what it was trained on),
`scorer.safetensors`, and, where CLIP was trained with the heads, `clip/` in transformers' format. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffalign.config.rewards import LearnedParams
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.clip_towers import ClipTowers, load_clip
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.scorers import HeadsOnClip, Scorer, SmallScorer, TunedClip
from diffalign.rewards.weights import fingerprint, model_version, pick_device

SETTINGS, WEIGHTS, CLIP = "config.json", "scorer.safetensors", "clip"
RESULT = "reward"  # the folder of a run that holds it
_FORMAT = 1


@dataclass(frozen=True)
class ScorerSettings:
    """What a learned reward's network is.

    Attributes:
        name: `small` (`SmallScorer`), or `clip` (`HeadsOnClip`, or `TunedClip` with `train` "all").
        options: of the network: side, width, depth, words and most_words of `small`; model, train, hidden of `clip`.
        dimensions: names of the heads.
        weights: of the dimensions in the reward's one number.
        about: what it was trained on and how well it does; for people.
    """

    name: str
    options: Mapping[str, Any]
    dimensions: tuple[str, ...]
    weights: tuple[float, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


def build_scorer(settings: ScorerSettings, *, device: str | None, clip: str | None = None) -> Scorer:
    """The network with fresh weights (those that torch's generator draws), or on CLIP's.

    Args:
        settings: what it is.
        device: cuda, mps or cpu; None: the best that there is.
        clip: where CLIP is, if not where the settings say.

    Raises:
        ConfigError: CLIP cannot be loaded, or the device is not there.
    """
    options = dict(settings.options)
    count = len(settings.dimensions)
    if settings.name == "small":
        return SmallScorer(dimensions=count, **options).to(pick_device(device))
    model, train = options.pop("model"), options.pop("train")
    towers = ClipTowers(*load_clip("learned", clip or model), device=device)
    kind = TunedClip if train == "all" else HeadsOnClip
    return kind(towers, dimensions=count, **options).to(towers.device)


class LearnedReward(BatchReward):
    """What comparisons have taught a network: the weighted sum of its heads.

    Range: unbounded; only differences between pictures of one prompt mean something: where it was trained with
    Bradley-Terry, a difference d says that the better one is picked with probability sigmoid(d). Components: the heads.
    Differentiable: by `score_tensor`.
    Source: Bradley & Terry 1952; with ties Liu et al. 2025, "Improving Video Generation with Human Feedback" (VideoReward).
    """

    def __init__(self, scorer: Scorer, settings: ScorerSettings, *, batch: int = 16) -> None:
        self.scorer, self.settings, self.batch = scorer.eval().requires_grad_(False), settings, batch
        self.components = settings.dimensions
        self.spec = learned_spec(_digest(scorer, settings))
        self._weights = torch.tensor(settings.weights)
        self.device = next(scorer.parameters()).device

    def judge_batch(self, pictures: Sequence[Pixels], samples: Sequence[Sample]) -> list[Judged]:
        texts = self.scorer.texts([sample.prompt for sample in samples])
        with torch.no_grad():
            heads = self.scorer(self.scorer.pictures(pictures).to(self.device), texts.to(self.device)).cpu()
        return [
            (value, dict(zip(self.components, parts, strict=True)))
            for value, parts in zip((heads @ self._weights).tolist(), heads.tolist(), strict=True)
        ]

    def score_tensor(
        self, pictures: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to the pictures, in [0, 1].

        It differs a little from `score` where pictures have to be scaled, which Pillow does there, with rounding.
        """
        seen = self.scorer.of_tensors(pictures.to(self.device, torch.float32))
        heads: Tensor = self.scorer(seen, self.scorer.texts(prompts).to(self.device))
        return heads @ self._weights.to(self.device)


def save_learned(folder: Path, scorer: Scorer, settings: ScorerSettings) -> None:
    """Write a folder that `load_learned` reads; whoever calls it puts it in its place whole.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in scorer.state_dict().items()}
    told: dict[str, Any] = {
        "format": _FORMAT,
        "scorer": settings.name,
        "options": dict(settings.options),
        "dimensions": list(settings.dimensions),
        "weights": list(settings.weights),
        "about": dict(settings.about),
    }
    if isinstance(scorer, TunedClip):
        scorer.towers.model.save_pretrained(folder / CLIP, safe_serialization=True)
        scorer.towers.tokenizer.save_pretrained(folder / CLIP)
        state = {name: tensor for name, tensor in state.items() if not name.startswith("clip.")}
    elif isinstance(scorer, HeadsOnClip):
        told["clip_version"] = scorer.towers.version
    save_file(state, folder / WEIGHTS)
    (folder / SETTINGS).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_learned(params: LearnedParams) -> LearnedReward:
    """Read a folder that a run of `task: reward` wrote, or that run's own folder.

    Raises:
        ConfigError: there is no such reward, or the CLIP under it cannot be loaded or is another one.
        DataError: it is damaged.
    """
    folder = Path(params.path)
    if not (folder / SETTINGS).is_file() and (folder / RESULT / SETTINGS).is_file():
        folder = folder / RESULT
    if not (folder / SETTINGS).is_file():
        why = (
            "the run has not finished: diffalign train --resume"
            if (folder / "config.yaml").is_file()
            else "no such reward"
        )
        raise ConfigError(
            f"learned.path: {folder} has no {SETTINGS}; {why}; give a run of task: reward, or its reward/ folder"
        )
    try:
        told = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if told["format"] != _FORMAT:
            raise ValueError(f"format {told['format']}, and this diffalign reads {_FORMAT}")
        settings = ScorerSettings(
            told["scorer"],
            told["options"],
            tuple(told["dimensions"]),
            tuple(map(float, told["weights"])),
            told["about"],
        )
        clip = str(folder / CLIP) if (folder / CLIP).is_dir() else params.model
        scorer = build_scorer(settings, device=params.device, clip=clip)
        lost = scorer.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        missing = [name for name in lost.missing_keys if not name.startswith("clip.")]
        if missing or lost.unexpected_keys:
            raise ValueError(f"{WEIGHTS} does not fit {SETTINGS}: {', '.join([*missing, *lost.unexpected_keys][:4])}")
    except ConfigError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder}: not a readable learned reward ({error})") from None
    if isinstance(scorer, HeadsOnClip) and scorer.towers.version != told.get("clip_version"):
        raise ConfigError(
            f"learned.model: the CLIP at {clip or settings.options['model']} is not the one that the heads were trained on "
            f"(have {scorer.towers.version}, trained on {told.get('clip_version')}); give that one"
        )
    return LearnedReward(scorer, settings, batch=params.batch)


def learned_spec(weights: str = "") -> RewardSpec:
    """What the number means; `weights` changes with them."""
    return RewardSpec(
        name="learned",
        version="-".join(filter(None, ("1", weights))),
        media="image",
        level="instance",
        unit="1",
        range=(-math.inf, math.inf),
        differentiable=True,
        licence="Apache-2.0 (the code); of the weights: that of your data, and of the CLIP under them",
        needs=("prompt",),
        source="Bradley & Terry 1952; with ties Liu et al. 2025 (VideoReward)",
    )


def _digest(scorer: Scorer, settings: ScorerSettings) -> str:
    told = repr((settings.name, sorted(settings.options.items()), settings.weights)).encode()
    under = b""
    if isinstance(scorer, HeadsOnClip):
        under = scorer.towers.version.encode()
    elif isinstance(scorer, TunedClip):  # its tensors are among the scorer's own
        under = model_version({}, [scorer.towers.model.config], scorer.towers.tokenizer).encode()
    return hashlib.sha256(told + under + fingerprint(scorer.state_dict()).encode()).hexdigest()[:12]
