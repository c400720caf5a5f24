"""How much people like a picture by itself: LAION's aesthetic predictor v2 over CLIP ViT-L/14."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from diffalign.config.rewards import AestheticParams
from diffalign.exceptions import ConfigError
from diffalign.rewards.clip_towers import ClipTowers, load_clip
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample

_HEAD = Path(__file__).with_name("laion_aesthetic.safetensors")
_RANGE = (5.2366 - 17.9956, 5.2366 + 17.9956)  # bias -/+ length of the weight


class AestheticReward(BatchReward):
    """LAION aesthetic predictor v2 (sac+logos+ava1-l14-linearMSE): w . e + b, of CLIP ViT-L/14's vector e of length 1.

    Its five layers have no activation between them, so they are one affine map, and that is what is kept here. Range:
    5.24 -/+ 18.0 in principle, of pictures 4 to 7.5: nothing bounds what an optimiser may find, so watch it beside another
    reward. Differentiable: by `score_tensor`.
    Source: christophschuhmann/improved-aesthetic-predictor (simple_inference.py), Apache-2.0.
    """

    components: tuple[str, ...] = ()

    def __init__(self, towers: ClipTowers, *, batch: int = 16) -> None:
        """Put the head on CLIP.

        Raises:
            ConfigError: the model is not a ViT-L/14: its vectors have another length.
        """
        self.towers, self.batch = towers, batch
        self.weight, self.bias = read_head()
        found = towers.model.config.projection_dim
        if found != len(self.weight):
            raise ConfigError(
                f"aesthetic.model: its vectors have {found} numbers; the predictor needs CLIP ViT-L/14's {len(self.weight)}"
            )
        self.spec = aesthetic_spec(AestheticParams(), towers.version)

    def judge_batch(self, pictures: Sequence[Pixels], samples: Sequence[Sample]) -> list[Judged]:
        return [(value, {}) for value in self.of_vectors(self.towers.pictures(pictures)).tolist()]

    def score_tensor(
        self, pictures: Float[Tensor, "batch 3 height width"], prompts: Sequence[str] | None = None
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to the pictures, in [0, 1]; it needs no prompts."""
        return self.of_vectors(self.towers.tensors(pictures))

    def of_vectors(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """The reward of CLIP's vectors, of length 1."""
        return vectors @ self.weight.to(vectors) + self.bias


def read_head() -> tuple[Float[Tensor, " 768"], float]:
    """The affine map: its direction and its value at 0."""
    with safe_open(_HEAD, framework="pt") as file:
        return file.get_tensor("weight"), float(json.loads(file.metadata()["bias"]))


def aesthetic_spec(params: AestheticParams, weights: str = "") -> RewardSpec:
    """What the number means; `weights` are CLIP's."""
    return RewardSpec(
        name="aesthetic",
        version="-".join(filter(None, ("1", weights))),
        media="image",
        level="instance",
        unit="1",
        range=_RANGE,
        differentiable=True,
        licence="Apache-2.0 (the head); CLIP's weights: MIT",
        needs=(),
        source="LAION aesthetic predictor v2, christophschuhmann/improved-aesthetic-predictor",
    )


def load_aesthetic(params: AestheticParams) -> AestheticReward:
    """With the weights that the settings name."""
    return AestheticReward(ClipTowers(*load_clip(params.name, params.model), device=params.device), batch=params.batch)
