"""Which of several processes this one is, as torchrun tells it: RANK, WORLD_SIZE, LOCAL_RANK. They do not talk."""

from __future__ import annotations

import os

from diffalign.exceptions import ConfigError


def process_of_all() -> tuple[int, int]:
    """(RANK, WORLD_SIZE); (0, 1) where nothing is set.

    Raises:
        ConfigError: they are no numbers that fit together.
    """
    told = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not all(text.isascii() and text.isdigit() for text in told) or int(told[0]) >= int(told[1]):
        raise ConfigError(
            f"RANK={told[0]} and WORLD_SIZE={told[1]}: must be whole numbers, RANK below WORLD_SIZE; "
            "unset both for one process"
        )
    return int(told[0]), int(told[1])


def own_device(device: str | None) -> str | None:
    """The device asked for; of several processes on one machine with CUDA, each has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK", "")
    if device not in (None, "cuda") or not local.isdigit():
        return device
    import torch

    return f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else device
