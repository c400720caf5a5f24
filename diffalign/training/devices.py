"""Which device a run is on: the one asked for, or the best that there is."""

from __future__ import annotations

import torch

from diffalign.config import RunConfig
from diffalign.exceptions import ConfigError

_DEVICES = ("cuda", "mps", "cpu")


def choose_device(config: RunConfig) -> torch.device:
    """The device asked for, else CUDA, MPS or CPU, whichever comes first.

    Raises:
        ConfigError: the device asked for is not there.
    """
    return find_device(config.device)


def find_device(name: str | None) -> torch.device:
    """The device of that name; None chooses CUDA, MPS or CPU, whichever comes first.

    Raises:
        ConfigError: it is not there.
    """
    if name is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    if name.partition(":")[0] not in _DEVICES:  # torch's own text lists every device that it has ever heard of
        raise ConfigError(f"device: {name!r} cannot be used here: must be cuda, mps or cpu; leave it out to choose")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0].partition(". ")[0]
        raise ConfigError(f"device: {name!r} cannot be used here ({first}); leave it out to choose") from None
    return device


def check_device(config: RunConfig, given: torch.device) -> None:
    """Whether the device that accelerate gave this process is the one that the config asks for.

    Raises:
        ConfigError: it is another.
    """
    if config.device is None:
        return
    asked = torch.device(config.device)
    if asked.type == given.type and asked.index in (None, given.index or 0):
        return
    advice = "" if asked.index is None else f"start it with CUDA_VISIBLE_DEVICES={asked.index} and "
    raise ConfigError(
        f"device: {config.device!r} was asked for, and this process runs on {given}; "
        f"CUDA_VISIBLE_DEVICES says which GPUs it sees: {advice}write device: {asked.type}"
    )
