"""The groups of one step, spread over forwards and processes in another way: the same run with other hardware."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffalign.config import RunConfig, load_alignment
from diffalign.exceptions import ConfigError

_FREE = ("training.processes", "training.accumulation", "training.groups")  # their product is what a run depends on


def resumed_config(file: Path, overrides: Sequence[str]) -> RunConfig:
    """The settings of a run that goes on, perhaps on another number of processes.

    Args:
        file: the run's config.yaml.
        overrides: `training.processes=N` and the like; only what keeps the groups of a step and their order.

    Raises:
        ConfigError: anything else is to be changed, or a step would see more, fewer or other groups.
    """
    for override in overrides:
        if override.partition("=")[0].strip() not in _FREE:
            raise ConfigError(
                f"--set {override}: a run goes on with its own config; of that only {', '.join(_FREE)} may change, and the "
                "groups of a step must stay; start a new run for anything else"
            )
    config = load_alignment(file)
    wanted = load_alignment(file, overrides)
    before, training = config.training, wanted.training
    if config.data.buckets is not None and training.groups != before.groups:
        raise ConfigError(
            f"training.groups: with data.buckets the order of the records follows from it, so this run goes on with "
            f"{before.groups}, not {training.groups}; {split_advice(config, training.processes)}"
        )
    if wanted.groups_per_step != config.groups_per_step:
        raise ConfigError(
            f"training.processes: a step of this run takes {config.groups_per_step} groups, and groups {training.groups} x "
            f"accumulation {training.accumulation} x processes {training.processes} are {wanted.groups_per_step}; "
            f"{split_advice(config, training.processes)}"
        )
    return wanted


def split_advice(config: RunConfig, processes: int) -> str:
    """Settings with which so many processes take the groups of a step between them."""
    total, groups = config.groups_per_step, config.training.groups
    units = total if config.data.buckets is None else total // groups  # a forward's groups of one bucket stay together
    if units % processes:
        fit = [number for number in range(1, units + 1) if units % number == 0]
        return f"processes must divide {units}: {', '.join(map(str, fit))}"
    share = total // processes
    if share % groups:  # as many at once as fit, and never more than were asked for
        groups = next(number for number in range(min(groups, share), 0, -1) if share % number == 0)
    changes = {"processes": processes, "accumulation": share // groups, "groups": groups}
    before = config.training.model_dump()
    new = {name: value for name, value in changes.items() if name == "processes" or value != before[name]}
    return f"take {' '.join(f'--set training.{name}={value}' for name, value in new.items())}"
