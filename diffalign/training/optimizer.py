"""The optimizer of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from diffalign.backbones import check_bitsandbytes
from diffalign.config.run import OptimizerConfig


def build_optimizer(settings: OptimizerConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or bitsandbytes' with its two averages in 8 bit: 2 bytes per trained parameter instead of 8.

    Tensors of fewer than 4096 elements keep theirs in 32 bit, as bitsandbytes does by itself.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    check_optimizer(settings)
    kind: Any = torch.optim.AdamW
    if settings.name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        kind = AdamW8bit
    return kind(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        eps=settings.epsilon,
    )


def check_optimizer(settings: OptimizerConfig) -> None:
    """Find out whether the optimizer that is asked for is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if settings.name == "adamw8bit":
        check_bitsandbytes("optimizer.name: adamw8bit")
