"""What the makers' own loops share: the moving average of weights, and a state that a later call goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

Parts = Mapping[str, Mapping[str, nn.Module]]  # "modules" and "average", by name


@torch.no_grad()
def average_into(average: Mapping[str, nn.Module], modules: Mapping[str, nn.Module], decay: float) -> None:
    """average = decay * average + (1 - decay) * modules."""
    kept = [p for name in modules for p in average[name].parameters()]
    current = [p for module in modules.values() for p in module.parameters()]
    torch._foreach_lerp_(kept, current, 1 - decay)


def save_state(
    path: Path, parts: Parts, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator, step: int
) -> None:
    """Write all that `load_state` reads, whole or not at all."""
    state = {kind: {name: module.state_dict() for name, module in members.items()} for kind, members in parts.items()}
    partial = path.with_suffix(".partial")
    told = {"optimizers": [each.state_dict() for each in optimizers], "generator": generator.get_state(), "step": step}
    torch.save(state | told, partial)
    os.replace(partial, path)


def load_state(
    path: Path, parts: Parts, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator
) -> int:
    """Put a state back; the steps that were done."""
    state = torch.load(path, weights_only=True)
    for kind, members in parts.items():
        for name, module in members.items():
            module.load_state_dict(state[kind][name])
    for optimizer, content in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(content)
    generator.set_state(state["generator"])
    return int(state["step"])
