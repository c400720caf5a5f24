"""Settings of a run: pydantic models, loading from YAML, overrides. Imports no torch."""

from diffalign.config.loading import (
    AnyConfig,
    find_config,
    load_alignment,
    load_config,
    parse_config,
    save_config,
)
from diffalign.config.paths import with_absolute_paths
from diffalign.config.reward_run import RewardRunConfig
from diffalign.config.run import RunConfig

__all__ = [
    "AnyConfig",
    "RewardRunConfig",
    "RunConfig",
    "find_config",
    "load_alignment",
    "load_config",
    "parse_config",
    "save_config",
    "with_absolute_paths",
]
