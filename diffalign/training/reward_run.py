"""A run that trains a reward (`task: reward`): data, network, steps, and the folder that `load_reward("learned")` reads.

The run folder, metrics, checkpoints, resuming and stopping are those of every run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffalign.backbones import recover_folders
from diffalign.config import RewardRunConfig, load_config
from diffalign.config.reward_run import SmallScorerParams
from diffalign.data import ReadCounts
from diffalign.data.comparisons import ComparedRecord
from diffalign.exceptions import (
    CheckpointError,
    ConfigError,
)
from diffalign.rewards.learned import ScorerSettings, build_scorer
from diffalign.rewards.scorers import vocabulary
from diffalign.training.changed_settings import refuse_changes
from diffalign.training.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    read_verified,
    saved_settings,
)
from diffalign.training.comparison_source import cache_of, open_comparisons, split_by_prompt
from diffalign.training.devices import find_device
from diffalign.training.result import result_step
from diffalign.training.reward_loop import RewardLoop, RewardRun, steps_follow_from
from diffalign.training.reward_trainer import Prepared, RewardTrainer
from diffalign.training.run_log import check_folder, make_run_folder

log = logging.getLogger(__name__)


def train_reward(
    config: RewardRunConfig, *, progress: bool = True, announce: Callable[[Path], None] | None = None
) -> RewardRun:
    """Train a reward from settings, in a new run folder.

    Raises:
        ConfigError, DataError: something asked for cannot be had; nothing was trained.
        DivergenceError: a number went bad; the last checkpoint is unharmed.
        RunInterrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
    """
    return _run(config, None, progress, announce)


def resume_reward(folder: Path, *, progress: bool = True) -> RewardRun:
    """Go on with an interrupted run, to the bit; a finished one is only loaded.

    Raises:
        ConfigError: not such a run, or its config.yaml was changed in what its steps follow from.
        CheckpointError: its checkpoints are all damaged.
        And what `train_reward` raises.
    """
    config = load_config((folder / "config.yaml").resolve())
    if not isinstance(config, RewardRunConfig):
        raise ConfigError(f"{folder}: is no run of task: reward; diffalign.training.resume goes on with it")
    recover_folders(folder)
    return _run(config, folder, progress, None)


def _run(
    config: RewardRunConfig, folder: Path | None, progress: bool, announce: Callable[[Path], None] | None
) -> RewardRun:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(f"task: reward trains in one process, and {os.environ['WORLD_SIZE']} were started")
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    if folder is None:
        check_folder(config)
    newest = None if folder is None else _newest_checkpoint(folder, config)
    device = find_device(config.device)
    records, held_out = _read(config, device)
    settings = _settings(config, records)
    scorer = _fresh(config, settings, device)
    dimensions = config.reward.dimensions
    trainer = RewardTrainer(config, scorer, Prepared(records, scorer, dimensions), device)
    test = Prepared(held_out, scorer, dimensions) if held_out else None
    if folder is None:
        folder = make_run_folder(config)
        if announce is not None:
            announce(folder)
    elif newest is not None:
        trainer.restore(read_verified(newest))
    loop = RewardLoop(config, folder, trainer, test, settings, resumed=newest is not None)
    if newest is not None and trainer.step >= config.training.steps and result_step(folder) == trainer.step:
        log.info("%s: this run is finished (%d steps); nothing left to train", folder, trainer.step)
        return loop.finished(trained=False)
    parameters = sum(each.numel() for each in scorer.parameters() if each.requires_grad)
    log.info("%s: from step %d, %d parameters trained, on %s", folder, trainer.step, parameters, device)
    loop.go(progress)
    return loop.finished(trained=True)


def _read(config: RewardRunConfig, device: torch.device) -> tuple[list[ComparedRecord], list[ComparedRecord]]:
    data, counts = config.data, ReadCounts()
    records = open_comparisons(
        data.path,
        data.kind,
        dimensions=config.reward.dimensions,
        margin=data.margin,
        split=data.split,
        config_name=data.config_name,
        columns=data.columns,
        limit=data.limit,
        on_bad=data.on_bad,
        cache=cache_of(config),
        device=device,
        counts=counts,
    )
    trained, held_out = split_by_prompt(records, data.held_out, config.seed)
    comparisons = sum(len(each.comparisons) for each in records)
    log.info(
        "%d records, %d comparisons, %d of them tied (%d bad rows skipped); %d records are of held-out prompts",
        len(records),
        comparisons,
        counts.ties,
        counts.bad,
        len(held_out),
    )
    return trained, held_out


def _settings(config: RewardRunConfig, records: list[ComparedRecord]) -> ScorerSettings:
    body, dimensions = config.reward.body, config.reward.dimensions
    options: dict[str, Any] = body.model_dump(exclude={"name", "vocabulary"})
    if isinstance(body, SmallScorerParams):
        words, longest = vocabulary([record.prompt for record in records], body.vocabulary)
        options |= {"words": words, "most_words": longest}
    weights = tuple(float(config.reward.weights.get(name, 1.0)) for name in dimensions)
    return ScorerSettings(body.name, options, dimensions, weights)


def _fresh(config: RewardRunConfig, settings: ScorerSettings, device: torch.device) -> Any:
    """The network as it starts; what is drawn for it follows from the seed, and torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return build_scorer(settings, device=str(device))


def _newest_checkpoint(folder: Path, config: RewardRunConfig) -> Path | None:
    if not list_checkpoints(folder):
        return None
    newest = latest_checkpoint(folder)
    saved, step = saved_settings(newest)
    if saved is None:
        raise CheckpointError(f"{newest}: does not say what it was trained with; start a new run")
    bound = {} if config.optimizer.schedule == "constant" else {"training.steps": "the schedule ends at the last step"}
    refuse_changes(saved, steps_follow_from(config), step, bound)
    return newest
