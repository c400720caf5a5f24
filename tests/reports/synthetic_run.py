"""A run folder as training and evaluation write it, made up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

PROMPTS = 40
REWARDS = {
    "scene": {
        "trained_on": True, "unit": "share of pictures that show the caption", "range": [0, 1],
        "base_mean": 0.5, "aligned_mean": 0.605, "difference": 0.105, "low": 0.061, "high": 0.149,
        "wins": 10, "ties": 24, "losses": 6, "win_rate": 0.55, "win_rate_low": 0.52, "win_rate_high": 0.58,
        "scored": 40, "unscored": 0, "reasons": {},
    },
    "jpeg": {
        "trained_on": False, "unit": "kilobytes, negated", "range": [None, 0],
        "base_mean": -1.5, "aligned_mean": -1.62, "difference": -0.12, "low": -0.15, "high": -0.09,
        "wins": 3, "ties": 0, "losses": 35, "win_rate": 0.08, "win_rate_low": 0.02, "win_rate_high": 0.2,
        "scored": 38, "unscored": 2, "reasons": {"no picture": 2},
    },
}  # fmt: skip
SUMMARY = {
    "prompts": PROMPTS, "seed": 0, "guidance_scale": 1.0, "sampler": {"name": "ddim", "steps": 20},
    "confidence": 0.95, "resamples": 10000, "seconds": 12.5, "trained_reward": "scene", "rewards": REWARDS,
    "corrected": {
        "reward": "scene", "quality": "scene.clean", "formula": "r (u - 3) + 0.2",
        "base_mean": -0.9, "aligned_mean": -0.94, "difference": -0.04, "low": -0.11, "high": 0.03,
    },
    "diversity": {"measure": "mean distance in pixels", "base": 0.3, "aligned": 0.29},
}  # fmt: skip

GEOMETRY = {
    "empty": [0, 0], "compared": 40,
    "volume": {"base": 0.0719, "aligned": 0.0749, "difference": 0.003, "low": 0.0014, "high": 0.0046},
    "chamfer": 0.035, "chamfer_floor": 0.0079, "f_score": 0.8, "shared": 0.83,
    "diversity_within": {"base": 0.4, "aligned": 0.36, "difference": -0.04, "low": -0.06, "high": -0.02},
    "two_draws": {"compared": 40, "chamfer": 0.11, "f_score": 0.45, "shared": 0.5},
}  # fmt: skip


def make_run(home: Path, *, pixels: int = 32, binary: bool = True, prompt: str = "a red circle") -> Path:
    """A whole run folder: prompts 0-9 are wins, 10-15 losses, the rest unchanged."""
    picture, sheet = make_picture(pixels), make_picture(2 * pixels)
    run = home / "shapes-20250101-120000"
    for folder in ("evaluation/base", "evaluation/aligned", "samples"):
        (run / folder).mkdir(parents=True)
    config = {
        "name": "shapes", "seed": 3, "folder": str(home), "model": {"family": "sd", "path": "zoo://shapes-sd"},
        "objective": {"name": "diffusion_dpo", "beta": 2000.0}, "training": {"steps": 60},
        "data": {"cache": "/home/alice/c"},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    versions = {"diffalign": "0.1.0", "torch": "2.13.0"}
    environment = {"python": "3.11.7", "platform": "Linux", "processors": 2, "threads": 1, "cuda": None}
    write_json(run / "environment.json", {**environment, "versions": versions})
    write_lines(run / "metrics.jsonl", metrics_rows())
    for step in range(10, 61, 5):
        (run / f"samples/step-{step}.png").write_bytes(sheet)
    records = []
    for index in range(PROMPTS):
        base, aligned = (0, 1) if index < 10 else (1, 0) if index < 16 else (index % 2, index % 2)
        if not binary:
            base, aligned = base * 0.1, aligned * (0.1 + 0.01 * index)
        row = {"id": f"{index:04d}", "prompt": f"{prompt} {index}", "seed": index}
        for side in ("base", "aligned"):
            row[side] = f"evaluation/{side}/{index:04d}.png"
            (run / row[side]).write_bytes(picture)
        records.append({**row, "rewards": {"scene": [float(base), float(aligned)], "jpeg": [-1.5, -1.6]}})
    write_lines(run / "evaluation/records.jsonl", records)
    write_json(run / "evaluation/summary.json", SUMMARY)
    return run


def metrics_rows() -> list[dict]:
    rng = np.random.default_rng(0)
    rows: list[dict] = []
    for step in range(1, 61):
        figures = ("winner_error", "loser_error", "reference_winner_error", "reference_loser_error", "gradient_norm")
        values = {name: float(rng.uniform(0.08, 0.12)) for name in figures}
        values |= {
            "loss": 0.69 - step / 200,
            "margin": step / 100,
            "pair_accuracy": 0.6,
            "reference_drift": 1e-4 * step,
        }
        rows.append({"event": "step", "step": step, **values, "learning_rate": 1e-4, "seconds_per_step": 0.4})
        if step % 20 == 0:
            rewards = {"scene": {"mean": 0.5, "spread": 0.5, "count": 16}}
            rows.append({"event": "samples", "step": step, "rewards": rewards, "diversity": 0.3})
    rows.append({"event": "resume", "step": 30})
    rows.append({"event": "alarm", "step": 50, "alarm": "saturation", "action": "warn", "message": "the loss is low"})
    return rows


def make_picture(pixels: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
