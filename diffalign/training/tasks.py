"""The two tasks of a run behind one door: aligning a model, and training a reward. The config says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from diffalign.config import AnyConfig, RewardRunConfig, RunConfig, load_config
from diffalign.exceptions import ConfigError
from diffalign.training import run as alignment
from diffalign.training.reward_run import RewardRun, resume_reward, train_reward
from diffalign.training.run import Run


@overload
def train(config: RunConfig, *, progress: bool = ..., announce: Callable[[Path], None] | None = ...) -> Run: ...
@overload
def train(
    config: RewardRunConfig, *, progress: bool = ..., announce: Callable[[Path], None] | None = ...
) -> RewardRun: ...
@overload
def train(
    config: AnyConfig, *, progress: bool = ..., announce: Callable[[Path], None] | None = ...
) -> Run | RewardRun: ...
def train(
    config: AnyConfig, *, progress: bool = True, announce: Callable[[Path], None] | None = None
) -> Run | RewardRun:
    """Train from settings, in a new run folder.

    Args:
        config: the settings, as `load_config` gives them.
        progress: show a bar, or lines where there is no terminal.
        announce: told the run folder once it is made: what is in it outlasts an error.

    Returns:
        A `Run`, or of a config with `task: reward` a `RewardRun`.

    Raises:
        What `diffalign.training.run.train` and `diffalign.training.reward_run.train_reward` raise.
    """
    if isinstance(config, RewardRunConfig):
        return train_reward(config, progress=progress, announce=announce)
    return alignment.train(config, progress=progress, announce=announce)


def resume(folder: Path, *, progress: bool = True, overrides: Sequence[str] = ()) -> Run | RewardRun:
    """Go on with an interrupted run, to the bit; a finished one is only loaded.

    Args:
        folder: the run folder.
        progress: show a bar, or lines where there is no terminal.
        overrides: of a run that aligns a model, how the groups of a step are spread over processes.

    Raises:
        ConfigError: not a run folder, or something is to be changed that may not be.
        And what `train` raises.
    """
    if (folder / "config.yaml").is_file() and isinstance(
        load_config((folder / "config.yaml").resolve()), RewardRunConfig
    ):
        if overrides:
            raise ConfigError(
                f"--set {overrides[0]}: a run of task: reward goes on with its own config; start a new run"
            )
        return resume_reward(folder, progress=progress)
    return alignment.resume(folder, progress=progress, overrides=overrides)
