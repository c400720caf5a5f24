"""Held-out pictures while training: the same prompts and seeds each time, scored by every reward."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.pipelines import contact_sheet, is_grid, save_picture
from diffalign.rewards import Reward, build_reward
from diffalign.rewards.functional import picture_diversity
from diffalign.training.build import build_generator
from diffalign.training.trainer import Trainer

log = logging.getLogger(__name__)


class SampleFigures(NamedTuple):
    """What is said of held-out samples.

    Attributes:
        rewards: name -> mean, spread (standard deviation) and count.
        diversity: mean distance between two of different prompts.
        volume: of shapes the share of cells that are filled; of pictures None.
    """

    rewards: dict[str, dict[str, float]]
    diversity: float
    volume: float | None


class HeldOutSamples:
    """Draws them, every process its share; the main one scores them and writes the contact sheet `samples/step-N.png`."""

    def __init__(self, config: RunConfig, trainer: Trainer, folder: Path, prompts: Sequence[str]) -> None:
        self._config = config
        self._trainer = trainer
        self._home = folder / "samples"
        self._prompts = prompts[: config.samples.count]
        rewards = config.evaluation.rewards if trainer.accelerator.is_main_process else ()
        self._rewards: list[Reward] = [build_reward(params) for params in rewards]

    def draw(self) -> Tensor:
        """The pictures [prompts, 3, height, width], or occupancy grids, in [0, 1], on the CPU of every process.

        Each depends on its prompt and seed alone. All processes call the network equally often, as networks in pieces need
        it: where the prompts do not divide, some draw the last one again.
        """
        started = time.monotonic()
        accelerator, count = self._trainer.accelerator, len(self._prompts)
        log.info("drawing %d samples at step %d", count, self._trainer.step)
        share = -(-count // accelerator.num_processes)
        first = accelerator.process_index * share
        mine = [min(number, count - 1) for number in range(first, first + share)]
        generator = build_generator(self._config, self._trainer.backbone)
        prompts = [self._prompts[number] for number in mine]
        seeds = [self._config.evaluation.seed + number for number in mine]
        pictures = torch.cat(list(generator(prompts, seeds, view=self._trainer.final_view)))
        if accelerator.num_processes > 1:
            pictures = accelerator.gather(pictures.to(accelerator.device)).cpu()[:count]
        log.info("samples of step %d drawn in %.1f s", self._trainer.step, time.monotonic() - started)
        return pictures

    def judge(self, pictures: Tensor, step: int) -> SampleFigures:
        """What is said of the pictures; the contact sheet is written."""
        self._home.mkdir(exist_ok=True)
        save_picture(contact_sheet(pictures), self._home / f"step-{step}.png")
        figures = {}
        for reward in self._rewards:
            values = reward(pictures, self._prompts)
            scored = values[torch.isfinite(values)].double()
            if len(scored):
                spread = scored.std(correction=0).item()
                figures[reward.spec.name] = {"mean": scored.mean().item(), "spread": spread, "count": len(scored)}
        volume = (pictures > 0.5).double().mean().item() if is_grid(pictures[0]) else None
        return SampleFigures(figures, picture_diversity(pictures, self._prompts), volume)
