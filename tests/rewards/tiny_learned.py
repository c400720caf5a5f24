"""Learned rewards with random weights, in the folder that a run writes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from diffalign.rewards.learned import ScorerSettings, build_scorer, save_learned
from tests.rewards.tiny_clip import temporary_folder, tiny_folder

WORDS = ["a", "above", "blue", "circle", "cross", "green", "purple", "red", "square", "triangle", "two", "white"]
SMALL = {"words": WORDS, "most_words": 8, "side": 32, "width": 16, "depth": 1}
CLIP = {"train": "heads", "hidden": 8}


def learned_settings(name: str = "small", **options: Any) -> ScorerSettings:
    base = SMALL if name == "small" else CLIP | {"model": tiny_folder()}
    return ScorerSettings(name, base | options, ("VQ", "TA"), (1.0, 0.5))


def learned_folder(name: str = "small", seed: int = 0, **options: Any) -> Path:
    """A fresh one; `options` are of the network."""
    torch.manual_seed(seed)
    settings = learned_settings(name, **options)
    folder = temporary_folder() / "reward"
    save_learned(folder, build_scorer(settings, device="cpu"), settings)
    return folder


@cache
def small_folder() -> str:
    return str(learned_folder())
