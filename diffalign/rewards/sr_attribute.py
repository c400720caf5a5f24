"""GDPO-SR's reward of super-resolution: smooth pictures are judged by fidelity, textured ones by how they look.

It is a reward of groups: every score is scaled within the restorations of one picture, so it says nothing of one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.rewards.full_reference import PSNRReward, reference_of
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import BatchReward, Judged, Reward, RewardSpec, Sample

__all__ = ["SRAttributeReward", "attribute_aware_reward", "texture_share"]

Mode = Literal["fixed", "parity"]
_TILE, _WIDE = 10, 64  # pixels a side: of a tile, and of the tile enlarged
_BINS, _GREATEST = 512, 5.5  # of the histogram of edge strength, from -5.5 to 5.5
_LEAST_BITS = 0.5  # of entropy, from which on a tile is textured
_LEAST_COMPLEXITY = 50  # the same as the authors' code has it: bits times pixels of the tile
_GREY = (0.299, 0.587, 0.114)  # BT.601


class SRAttributeReward(BatchReward):
    """How good each restoration of a picture is among the others of it: fidelity where it is smooth, else quality.

        reward_i = (1 - texture) PSNR_i + texture * mean over the quality rewards of quality_i

    Each score is scaled to [0, 1] within its group, by least and greatest. The group is `metadata["group"]`, the original
    `metadata["reference"]`; texture is the share of textured pixels of the original of the group's first sample.

    Range: [0, 1]. Higher is better. Components: psnr (luma, dB), texture, and the raw scores of the quality rewards, by
    name. Differentiable: no. It depends on who else is in the batch: a group has to come whole, in one call.
    Source: "GDPO-SR: Group Direct Preference Optimization for One-Step Generative Image Super-Resolution" (2026), the
    authors' losses/grpo.py and my_utils/mask.py, where quality is MUSIQ and MANIQA.

    Example:
        `SRAttributeReward([load_reward("brisque")])(restored, metadata=[{"group": 7, "reference": original}, ...])`
    """

    def __init__(
        self,
        quality: Sequence[Reward],
        *,
        mode: Mode = "fixed",
        min_range: float = 1e-8,
        crop_border: int = 0,
    ) -> None:
        """Say what stands for quality.

        Args:
            quality: rewards that need nothing but the picture, `brisque` for example.
            mode: parity as the authors' code has it: NaN where a score is the same in all of a group, red and blue
                exchanged in the grey, and tiles at the edges of a picture as good as never textured.
            min_range: in mode fixed, a score whose range within the group is less counts 0.
            crop_border: of the PSNR, in pixels.

        Raises:
            ConfigError: names the argument.
        """
        names = [each.spec.name for each in quality]
        if not names or len(set(names)) < len(names) or {"psnr", "texture"} & set(names):
            raise ConfigError(f"sr_attribute.quality: must be rewards of different names, none psnr, got {names}")
        for each in quality:
            if each.spec.media != "image" or each.spec.needs:
                raise ConfigError(
                    f"sr_attribute.quality: {each.spec.name} needs {', '.join(each.spec.needs) or each.spec.media}; "
                    "rewards that stand for quality judge the picture alone"
                )
        _check_mode(mode)
        if not min_range >= 0:
            raise ConfigError(f"sr_attribute.min_range: must be >= 0, got {min_range}")
        self.quality, self.mode, self.min_range = tuple(quality), mode, min_range
        self.psnr = PSNRReward(crop_border=crop_border)
        self.components = ("psnr", "texture", *names)
        parts = "+".join(f"{each.spec.name}@{each.spec.version}" for each in quality)
        self.spec = RewardSpec(
            name="sr_attribute",
            version=f"1-{mode}-r{min_range:g}-b{crop_border}-{parts}",
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 1.0),
            differentiable=False,
            licence="; ".join(dict.fromkeys(["Apache-2.0", *(each.spec.licence for each in quality)])),
            needs=("reference", "metadata"),
            source='"GDPO-SR: Group Direct Preference Optimization for One-Step Generative Image Super-Resolution", 2026',
            deterministic=all(each.spec.deterministic for each in quality),
            grouped=True,
        )

    def judge_batch(self, pictures: Sequence[Pixels], samples: Sequence[Sample]) -> list[Judged]:
        rows: list[list[float] | str] = [
            self._raw(pixels, sample) for pixels, sample in zip(pictures, samples, strict=True)
        ]
        groups: dict[object, list[int]] = {}
        for place, (row, sample) in enumerate(zip(rows, samples, strict=True)):
            if not isinstance(row, str):
                groups.setdefault(sample.metadata["group"], []).append(place)
        judged: list[Judged] = [row if isinstance(row, str) else "" for row in rows]
        for places in groups.values():
            first = places[0]
            texture = texture_share(reference_of(samples[first].metadata, pictures[first]), mode=self.mode)
            raw = torch.tensor([rows[place] for place in places], dtype=torch.float64).T
            values = attribute_aware_reward(
                raw[:1],
                raw[1:, None],
                smooth=torch.tensor([round(1 - texture, 2)], dtype=torch.float64),
                texture=torch.tensor([texture], dtype=torch.float64),
                min_range=self.min_range if self.mode == "fixed" else None,
            )[0]
            for place, value in zip(places, values.tolist(), strict=True):
                parts = dict(zip(self.components, [rows[place][0], texture, *rows[place][1:]], strict=True))
                judged[place] = (value, parts) if value == value else _constant(samples[place])
        return judged

    def _raw(self, pixels: Pixels, sample: Sample) -> list[float] | str:
        """PSNR and the quality scores of one sample, or why it has none."""
        if sample.metadata.get("group") is None:
            return "it has no group: metadata['group'] must name the picture that it restores"
        alone = Sample(pixels, id=sample.id)
        found = [self.psnr.score([Sample(pixels, metadata=sample.metadata, id=sample.id)])]
        found += [each.score([alone]) for each in self.quality]
        reasons = [output.reasons[0] for output in found if output.reasons[0] is not None]
        return reasons[0] if reasons else [output.values.item() for output in found]


def attribute_aware_reward(
    fidelity: Float[Tensor, "groups members"],
    perceptual: Float[Tensor, "metrics groups members"],
    *,
    smooth: Float[Tensor, " groups"],
    texture: Float[Tensor, " groups"],
    min_range: float | None,
) -> Float[Tensor, "groups members"]:
    """Judge smooth pictures by fidelity, textured ones by perceptual scores, each scaled to [0, 1] within its group.

        reward_i = smooth * fidelity_i + texture * mean over metrics of perceptual_i

    Args:
        fidelity: PSNR against the high-resolution picture; NaN where unscored.
        perceptual: no-reference scores, higher is better (MUSIQ and MANIQA in the paper).
        smooth: share of smooth pixels of the high-resolution picture, in [0, 1].
        texture: share of textured pixels, in [0, 1].
        min_range: a metric that differs by less within a group says nothing there and counts 0. None: as the authors'
            code, which divides by that range: NaN where all agree.

    Returns:
        [groups, members], NaN where a metric is.

    Source: the authors' losses/grpo.py.
    """
    kind = torch.promote_types(fidelity.dtype, torch.float32)
    both = torch.cat([fidelity[None], perceptual]).to(kind)
    unscored = both.isnan()
    low = both.masked_fill(unscored, torch.inf).amin(-1, keepdim=True)
    spread = both.masked_fill(unscored, -torch.inf).amax(-1, keepdim=True) - low
    if min_range is None:
        scaled = (both - low) / spread
    else:
        told = spread >= min_range
        scaled = (both - low) / spread.masked_fill(~told, 1.0)
        scaled = scaled.masked_fill(~told & ~unscored, 0.0)
    return smooth.to(kind)[:, None] * scaled[0] + texture.to(kind)[:, None] * scaled[1:].mean(0)


def texture_share(pixels: Pixels, *, mode: Mode = "fixed") -> float:
    """The share of textured pixels of a picture, uint8 [height, width, 3], rounded to two decimals as the authors do.

    Tiles of 10x10 pixels of the grey picture, each enlarged to 64x64; it is textured where the entropy of its edge
    strengths (Sobel; 512 bins from -5.5 to 5.5) is more than half a bit.

    Args:
        pixels: the high-resolution picture.
        mode: fixed; or parity as the authors' code has it: entropy times the tile's pixels must be more than 50, so that
            the narrower tiles at the right and lower edges hardly ever are textured, and red and blue are exchanged.

    Raises:
        ConfigError: names the argument.
    """
    _check_mode(mode)
    red, green, blue = _GREY if mode == "fixed" else _GREY[::-1]
    grey = np.rint(pixels.astype(np.float64) @ np.array([red, green, blue])) / 255
    height, width = grey.shape
    textured = 0
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            tile = grey[top : top + _TILE, left : left + _TILE]
            bits = _edge_entropy(tile)
            textured += tile.size * bool(
                bits > _LEAST_BITS if mode == "fixed" else bits * tile.size > _LEAST_COMPLEXITY
            )
    return round(textured / grey.size, 2)


def _edge_entropy(tile: NDArray[np.float64]) -> float:
    """Bits of the histogram of Sobel edge strengths of a tile, enlarged to 64x64."""
    wide = _enlarging(tile.shape[0]) @ tile @ _enlarging(tile.shape[1]).T
    around = np.pad(wide, 1, mode="edge")
    right = around[:, 2:] - around[:, :-2]
    down = around[2:] - around[:-2]
    across = right[:-2] + 2 * right[1:-1] + right[2:]
    along = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    counts, _ = np.histogram(np.hypot(across, along), bins=_BINS, range=(-_GREATEST, _GREATEST))
    shares = counts / (counts.sum() + 1e-5)
    return float(-(shares * np.log2(shares + 1e-10)).sum())


@cache
def _enlarging(size: int) -> NDArray[np.float64]:
    """Bilinear weights [64, size] that enlarge a row of `size` pixels, its ends repeated."""
    places = ((np.arange(_WIDE) + 0.5) * size / _WIDE - 0.5).clip(0, size - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0)


def _constant(sample: Sample) -> str:
    return (
        f"a score is the same for all of group {sample.metadata['group']!r}, by whose range the authors' code divides"
    )


def _check_mode(mode: str) -> None:
    if mode not in ("fixed", "parity"):
        raise ConfigError(f"sr_attribute.mode: must be 'fixed' or 'parity', got {mode!r}")
