"""Records of red and blue pictures, and small runs of `task: reward` on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffalign.config import RewardRunConfig, parse_config
from tests.data.pictures import encode, write_rows

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 180, 60)}


def colour_pairs(home: Path, count: int = 24, **columns: Any) -> Path:
    """Pairs of one colour each, of which the one that the prompt names is chosen; every prompt is another."""
    home.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        asked, other = rng.permutation(list(COLOURS))[:2]
        for side, colour in (("a", asked), ("b", other)):
            (home / f"{number}{side}.png").write_bytes(encode(Image.fromarray(noisy(colour, rng))))
        row = {"id": f"r{number}", "prompt": f"{asked} number {number}"}
        rows.append(row | {"chosen": f"{number}a.png", "rejected": f"{number}b.png"} | columns)
    write_rows(home / "metadata.jsonl", rows)
    return home


def noisy(colour: str, rng: np.random.Generator) -> np.ndarray:
    return (np.array(COLOURS[colour]) + rng.integers(-30, 30, size=(32, 32, 3))).clip(0, 255).astype(np.uint8)


def reward_settings(home: Path, **sections: Any) -> dict[str, Any]:
    """A nested dict as a config file holds it; each section given is laid over the small one."""
    base: dict[str, Any] = {
        "task": "reward",
        "name": "tiny",
        "folder": str(home / "runs"),
        "device": "cpu",
        "reward": {"body": {"name": "small", "width": 16, "depth": 1}},
        "data": {"path": str(home / "pairs"), "held_out": 0.25},
        "optimizer": {"learning_rate": 1e-2},
        "training": {"steps": 6, "records": 4, "shift": 1, "contrast": 0.5, "checkpoint_every": 2},
    }
    for name, section in sections.items():
        base[name] = (
            base[name] | section if isinstance(section, Mapping) and isinstance(base.get(name), Mapping) else section
        )
    return base


def reward_config(home: Path, **sections: Any) -> RewardRunConfig:
    """Of pairs that are made where there are none yet."""
    if not (home / "pairs").exists():
        colour_pairs(home / "pairs")
    config = parse_config(reward_settings(home, **sections))
    assert isinstance(config, RewardRunConfig)
    return config
