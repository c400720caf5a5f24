"""diffalign aligns any diffusion or flow model with preferences or rewards.

    import diffalign

    run = diffalign.train(diffalign.load_config("quickstart/diffusion_dpo.yaml"))
    scores = diffalign.load_reward("ocr")(images, prompts)

Importing the package loads no torch: each name below is fetched from its room when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffalign.exceptions import (
    CheckpointError,
    ConfigError,
    DataError,
    DiffalignError,
    DivergenceError,
    MissingExtraError,
    ShapeError,
)

if TYPE_CHECKING:
    from diffalign.backbones import load_backbone
    from diffalign.config import load_config
    from diffalign.evaluation import evaluate
    from diffalign.rewards import load_reward
    from diffalign.training import train

    __version__: str

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DiffalignError",
    "DivergenceError",
    "MissingExtraError",
    "ShapeError",
    "__version__",
    "evaluate",
    "load_backbone",
    "load_config",
    "load_reward",
    "train",
]

_ROOMS = {
    "evaluate": "diffalign.evaluation",
    "load_backbone": "diffalign.backbones",
    "load_config": "diffalign.config",
    "load_reward": "diffalign.rewards",
    "train": "diffalign.training",
}


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("diffalign")
    except PackageNotFoundError:  # a checkout on the path, never installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _ROOMS:
        value = getattr(import_module(_ROOMS[name]), name)
    else:
        raise AttributeError(f"module 'diffalign' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
