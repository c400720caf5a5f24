"""The learning rate over the optimizer steps: a warm-up, then constant or down to 0."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffalign.config import AnyConfig


def learning_rate_factor(config: AnyConfig) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step, counted from 0."""
    optimizer, steps = config.optimizer, config.training.steps
    warmup = optimizer.warmup_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if optimizer.schedule == "constant":
            return 1.0
        done = (step - warmup) / max(1, steps - warmup)
        if optimizer.schedule == "linear":
            return 1 - done
        return 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi, dtype=torch.float64)).item())

    return factor
