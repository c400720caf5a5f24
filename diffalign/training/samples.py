"""Held-out pictures while training: the same prompts and seeds each time, scored by every reward."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from diffalign.config import RunConfig
from diffalign.pipelines import contact_sheet, save_picture
from diffalign.rewards import Reward, build_reward
from diffalign.rewards.functional import picture_diversity
from diffalign.training.build import build_generator
from diffalign.training.offline import OfflineTrainer

log = logging.getLogger(__name__)


class HeldOutSamples:
    """Draws and scores them, and writes the contact sheet `samples/step-N.png`."""

    def __init__(self, config: RunConfig, trainer: OfflineTrainer, folder: Path, prompts: Sequence[str]) -> None:
        self._config = config
        self._trainer = trainer
        self._home = folder / "samples"
        self._prompts = prompts[: config.samples.count]
        self._rewards: list[Reward] = [build_reward(params) for params in config.evaluation.rewards]

    def draw(self, step: int) -> tuple[dict[str, dict[str, float]], float]:
        started = time.monotonic()
        generator = build_generator(self._config, self._trainer.backbone)
        seeds = [self._config.evaluation.seed + number for number in range(len(self._prompts))]
        pictures = torch.cat(list(generator(self._prompts, seeds, view=self._trainer.final_view)))
        self._home.mkdir(exist_ok=True)
        save_picture(contact_sheet(pictures), self._home / f"step-{step}.png")
        figures = {}
        for reward in self._rewards:
            values = reward(pictures, self._prompts)
            scored = values[torch.isfinite(values)].double()
            if len(scored):
                spread = scored.std(correction=0).item()
                figures[reward.spec.name] = {"mean": scored.mean().item(), "spread": spread, "count": len(scored)}
        log.info("samples of step %d drawn in %.1f s", step, time.monotonic() - started)
        return figures, picture_diversity(pictures)
