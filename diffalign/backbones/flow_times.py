"""The sampling times of flow checkpoints, whose schedulers may shift them by the length of the token sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.limits import set_steps


def shift_of(config: Mapping[str, Any], tokens: int) -> float:
    """The shift of a scheduler, t -> shift t / (1 + (shift - 1) t), for pictures of so many tokens.

    Args:
        config: of a diffusers `FlowMatchEulerDiscreteScheduler`.
        tokens: length of the picture's part of the sequence.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config["shift"])
    mu = _mu(config, tokens)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def flow_times(
    config: Mapping[str, Any], steps: int, tokens: int, sigmas: Sequence[float] | None = None
) -> Float[Tensor, " times"]:
    """The times at which diffusers' pipelines sample, from noise to data.

    Args:
        config: of the checkpoint's scheduler.
        steps: one less than there are times.
        tokens: length of the picture's part of the sequence.
        sigmas: times before the shift, where the pipeline chooses them; None: the scheduler does.

    Raises:
        ConfigError: no such number of steps.
    """
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    options: dict[str, Any] = {"mu": _mu(config, tokens)} if config.get("use_dynamic_shifting") else {}
    if sigmas is not None and not config.get("use_flow_sigmas"):
        options["sigmas"] = list(sigmas)
    set_steps(scheduler, steps, **options)
    return scheduler.sigmas.cpu()


def _mu(config: Mapping[str, Any], tokens: int) -> float:
    """Linear in the length of the sequence (`calculate_shift` of diffusers' FLUX and SD3 pipelines)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (last - first) / (high - low)
    return tokens * slope + (first - slope * low)
