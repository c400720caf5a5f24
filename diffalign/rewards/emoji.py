"""Emoji by name: does a picture look more like the emoji that was asked for than like any other?

The zoo's emoji model draws a name such as "red heart". The judge holds, for each of the names that the model knows, a short
description of the designers' picture (Noto Color Emoji): mean colours and edge directions on a coarse grid. No network, and
nothing of the model that it judges went into it.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward

__all__ = ["EmojiReward", "describe_picture"]

_ATLAS = Path(__file__).with_name("emoji.safetensors")
_SIZE = 32  # pixels a side at which pictures are described
_COLOUR_CELLS, _EDGE_CELLS = 8, 4  # a side
_DIRECTIONS = 8  # of edges, over half a turn


class EmojiReward(SampleReward):
    """Whether the emoji that a picture looks most like is the one that its prompt names.

    Range: strict 0 or 1; reciprocal (0, 1], one over the place of the named emoji among all 1,141 by likeness; likeness
    [-1, 1], the cosine with the named emoji: 0 for one that is neither like nor unlike it, 0.94 for the best that the zoo
    model's autoencoder can show. Higher is better. Components: strict, top5 (among the five most alike), reciprocal,
    likeness. Differentiable: no.
    Source: diffalign's own; histograms of edge directions after Dalal and Triggs 2005, "Histograms of Oriented Gradients
    for Human Detection". The pictures described: Noto Color Emoji.
    """

    components = ("strict", "top5", "reciprocal", "likeness")

    def __init__(self, *, form: Literal["strict", "reciprocal", "likeness"] = "strict") -> None:
        if form not in ("strict", "reciprocal", "likeness"):
            raise ConfigError(f"emoji.form: must be 'strict', 'reciprocal' or 'likeness', got {form!r}")
        self.form = form
        self.spec = RewardSpec(
            name="emoji",
            version=f"1-{form}",
            media="image",
            level="instance",
            unit="1",
            range=(-1.0 if form == "likeness" else 0.0, 1.0),
            differentiable=False,
            licence="Apache-2.0; descriptions of pictures under the SIL Open Font License 1.1",
            needs=("prompt",),
            source="diffalign's own; likeness to the designers' Noto Color Emoji",
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        rows, mean, scale, atlas = _read_atlas()
        if sample.prompt not in rows:
            close = difflib.get_close_matches(sample.prompt, rows, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; write for example 'red heart' or 'cat face'"
            raise DataError(f"the prompt {sample.prompt!r} is not the name of an emoji of the zoo{hint}")
        likeness = atlas @ _unit((describe_picture(pixels) - mean) / scale)
        named = likeness[rows[sample.prompt]]
        place = 1 + int((likeness > named).sum())
        parts = {
            "strict": float(place == 1),
            "top5": float(place <= 5),
            "reciprocal": 1 / place,
            "likeness": float(named),
        }
        return parts[self.form], parts


def describe_picture(pixels: Pixels) -> UInt8[np.ndarray, " features"]:
    """Colours and edges of a picture of any size, at 32x32, as bytes.

    Mean luma and chroma (YCbCr) in 8x8 cells, then shares of edge strength in 8 directions in 4x4 cells, as roots.
    """
    picture = Image.fromarray(pixels).resize((_SIZE, _SIZE), Image.Resampling.BOX).convert("YCbCr")
    colours = np.asarray(picture.resize((_COLOUR_CELLS, _COLOUR_CELLS), Image.Resampling.BOX)).ravel()
    down, right = np.gradient(np.asarray(picture.getchannel("Y"), dtype=np.float32))
    direction = ((np.arctan2(down, right) / np.pi % 1) * _DIRECTIONS).astype(int) % _DIRECTIONS
    cell = np.arange(_SIZE) * _EDGE_CELLS // _SIZE
    place = (cell[:, None] * _EDGE_CELLS + cell[None]) * _DIRECTIONS + direction
    edges = np.bincount(place.ravel(), np.hypot(down, right).ravel(), _EDGE_CELLS**2 * _DIRECTIONS)
    shares = np.sqrt(edges / max(edges.sum(), 1e-6))  # a picture of one colour has none
    return np.concatenate([colours, np.rint(255 * shares).clip(0, 255).astype(np.uint8)])


def _unit(vectors: Float[np.ndarray, "*batch features"]) -> Float[np.ndarray, "*batch features"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@cache
def _read_atlas() -> tuple[dict[str, int], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Rows by name; mean and scale of the features; the descriptions, standardised, of length 1."""
    with safe_open(_ATLAS, framework="numpy") as file:
        names = json.loads(file.metadata()["names"])
        raw = file.get_tensor("descriptions").astype(np.float32)
    mean, scale = raw.mean(0), raw.std(0) + 1.0  # a byte's rounding: a feature that never varies says nothing
    return {name: row for row, name in enumerate(names)}, mean, scale, _unit((raw - mean) / scale)
