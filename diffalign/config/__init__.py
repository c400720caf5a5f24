"""Settings of a run: pydantic models, loading from YAML, overrides. Imports no torch."""

from diffalign.config.loading import find_config, load_config, parse_config, save_config, with_absolute_paths
from diffalign.config.run import RunConfig

__all__ = ["RunConfig", "find_config", "load_config", "parse_config", "save_config", "with_absolute_paths"]
