"""A run from the first check to its end: building, the run folder, resuming, and what is handed back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from diffalign.backbones import Backbone, recover_folders
from diffalign.config import RunConfig
from diffalign.config.model import Precision
from diffalign.exceptions import ConfigError, DivergenceError, HealthStop, RunInterrupted, RunPaused
from diffalign.pipelines import ImageGenerator
from diffalign.training.batch_split import resumed_config
from diffalign.training.build import (
    build_generator,
    build_trained,
    held_out_prompts,
)
from diffalign.training.build_data import check_source
from diffalign.training.build_trainer import trainer_of
from diffalign.training.changed_settings import check_unchanged
from diffalign.training.checkpoint import latest_checkpoint, list_checkpoints, read_verified, saved_settings
from diffalign.training.devices import choose_device, find_device
from diffalign.training.health import HealthMonitor
from diffalign.training.loop import TrainingLoop
from diffalign.training.optimizer import check_optimizer
from diffalign.training.processes import one_voice, part, speak_once, start_accelerator, start_backbone
from diffalign.training.result import gone_on, result_step, trained_steps
from diffalign.training.run_log import check_folder, check_trackers, make_run_folder
from diffalign.training.sharding import shards
from diffalign.training.team import Team
from diffalign.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: config.yaml, metrics.jsonl, samples/, checkpoints/, adapter/ (or model/, of full fine-tuning).
        config: the resolved settings.
        backbone: the model with what was trained in it. After a run whose networks are in pieces (`training.sharding`) the
            main process has read it anew; the others keep pieces, which cannot draw alone.
        view: the view of the backbone that the run was for ("policy", or "ema" where an average is kept).
        steps: optimizer steps done.
        trained: whether this call did any of them.
    """

    folder: Path
    config: RunConfig = field(repr=False)
    backbone: Backbone = field(repr=False)
    view: str
    steps: int
    trained: bool = True

    @property
    def generator(self) -> ImageGenerator:
        """Draws pictures as the section `evaluation` of the config says."""
        return build_generator(self.config, self.backbone)


def train(config: RunConfig, *, progress: bool = True, announce: Callable[[Path], None] | None = None) -> Run:
    """Train from settings, in a new run folder.

    Args:
        config: the settings.
        progress: show a bar, or lines where there is no terminal.
        announce: told the run folder once it is made: what is in it outlasts an error.

    Raises:
        ConfigError, DataError: something asked for cannot be had; nothing was trained.
        DivergenceError: a number went bad; the last checkpoint is unharmed.
        RunInterrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
        RunPaused: an online run waits for people; a checkpoint was saved.
        HealthStop: an alarm that is set to stop rang; a checkpoint was saved.
    """
    return _run(config, None, progress, announce)


def resume(folder: Path, *, progress: bool = True, overrides: Sequence[str] = ()) -> Run:
    """Go on with an interrupted run, to the bit; a finished one is only loaded.

    Args:
        folder: the run folder.
        progress: show a bar, or lines where there is no terminal.
        overrides: "training.processes=1", "training.accumulation=4" and the like, to go on with another number of
            processes: to rounding, for sums are made in another order. The groups of a step must stay.

    Raises:
        ConfigError: not a run folder, or something else is to be changed.
        CheckpointError: its checkpoints are all damaged.
        ConfigError: its config.yaml was changed in what its steps follow from.
        And what `train` raises.
    """
    return _run(open_run(folder, overrides), folder, progress)


def load_run(folder: Path, *, device: str | None = None, precision: Precision | None = None) -> Run:
    """Load the model of a run with what it has trained, without training.

    Args:
        folder: the run folder.
        device: where to load it; None is what the run's config says.
        precision: of the frozen weights, and of a network that was trained as a whole; None is what the run had.

    Raises:
        ConfigError: not a run folder, or nothing trained in it yet.
    """
    config = open_run(folder)
    backbone = build_trained(
        config, folder, choose_device(config) if device is None else find_device(device), precision
    )
    if (warning := gone_on(folder, config)) is not None:
        log.warning("%s", warning)
    return Run(folder, config, backbone, "policy", trained_steps(config, folder), trained=False)


def open_run(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of a run folder, with what a cut left in it mended.

    Raises:
        ConfigError: it is none, or `overrides` change more than how the groups of a step are spread.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.yaml; give the folder that train printed")
    recover_folders(folder)
    return resumed_config((folder / "config.yaml").resolve(), overrides)


def _run(config: RunConfig, folder: Path | None, progress: bool, announce: Callable[[Path], None] | None = None) -> Run:
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    accelerator = start_accelerator(config)
    advice = [_how_to_go_on(folder)]
    with one_voice(accelerator, advice):
        return _run_on(accelerator, config, folder, progress, announce, advice)


def _how_to_go_on(folder: Path | None) -> str:
    if folder is None:
        return "nothing was trained; start it again"
    return f"what was saved is unharmed: go on with diffalign train --resume {folder}"


def _run_on(
    accelerator: Accelerator,
    config: RunConfig,
    folder: Path | None,
    progress: bool,
    announce: Callable[[Path], None] | None,
    advice: list[str],
) -> Run:
    if folder is None:
        check_folder(config)
    check_trackers(config)
    check_optimizer(config.optimizer)
    team = Team.of(accelerator)
    newest = team.from_main(lambda: _newest_checkpoint(folder, config))
    check_source(config)
    prompts = held_out_prompts(config)  # a missing file is found now, not after hours of training
    backbone = start_backbone(config, accelerator, network_waits=True)
    build_generator(config, backbone)  # and so are sampler settings that the model does not take
    trainer = trainer_of(config, backbone, accelerator, prompts)
    monitor = HealthMonitor(
        config.health,
        trained_reward=config.evaluation.trained_reward,
        unbounded=config.objective.unbounded,
    )
    started = False
    if folder is None:
        folder = team.from_main(lambda: make_run_folder(config))
        advice.append(_how_to_go_on(folder))
        if announce is not None:
            announce(folder)
    elif newest is not None:
        saved = read_verified(newest)
        trainer.restore(saved)
        monitor.restore(saved.trainer["health"])
        started = True
        written = team.from_main(lambda: (folder / config.model.result).is_dir() and result_step(folder))
        if trainer.step >= config.training.steps and written == trainer.step:
            log.info("%s: this run is finished (%d steps); nothing left to train", folder, trainer.step)
            return replace(_finished(folder, config, trainer), trained=False)
        log.info("%s: going on from step %d", folder, trainer.step)
    else:
        log.info("%s: no checkpoint yet: starting from step 0", folder)
    log.info(
        "%s: %d %s, %d a step, %d parameters trained, on %s",
        folder,
        trainer.groups,
        "groups" if config.online is None else "prompts",
        config.groups_per_step,
        sum(parameter.numel() for parameter in backbone.trained_parameters()),
        accelerator.device,
    )
    trainer.folder = folder
    loop = TrainingLoop(config, folder, trainer, monitor, prompts, resume_step=trainer.step if started else None)
    try:
        loop.go(progress)
    except (
        DivergenceError,
        RunInterrupted,
        RunPaused,
        HealthStop,
    ) as error:  # raised by all processes after the same step
        speak_once(error)
        part(trainer)
        raise
    return _finished(folder, config, trainer)


def _newest_checkpoint(folder: Path | None, config: RunConfig) -> Path | None:
    """The one to go on from; None: there is none yet.

    Raises:
        CheckpointError: all are damaged.
        ConfigError: it was trained with other settings: said now, not after everything is encoded with these.
    """
    if folder is None or not list_checkpoints(folder):
        return None
    newest = latest_checkpoint(folder)
    settings, step = saved_settings(newest)
    check_unchanged(settings, config, step)
    return newest


def _finished(folder: Path, config: RunConfig, trainer: Trainer) -> Run:
    reload = shards(config, trainer.accelerator) and trainer.accelerator.is_main_process
    part(trainer)
    if reload:  # pieces cannot draw alone
        return replace(load_run(folder), config=config, trained=True)
    trainer.backbone.release("reference")  # perhaps in lower precision, or on the CPU: to draw with, it is read anew
    return Run(folder, config, trainer.backbone, trainer.final_view, trainer.step)
