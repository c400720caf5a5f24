"""A run from its first step to its last: the folder, the loop, samples, checkpoints, alarms, resuming."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from diffalign.backbones import Backbone
from diffalign.config import RunConfig, load_config
from diffalign.exceptions import ConfigError, HealthStop, RunInterrupted
from diffalign.objectives import get_objective
from diffalign.pipelines import ImageGenerator, contact_sheet, save_picture
from diffalign.rewards import Reward, build_reward
from diffalign.rewards.functional import picture_diversity
from diffalign.training.build import (
    build_backbone,
    build_data,
    build_generator,
    build_time,
    choose_device,
    held_out_prompts,
)
from diffalign.training.checkpoint import list_checkpoints, load_latest, save_checkpoint
from diffalign.training.health import Alarm, HealthMonitor
from diffalign.training.offline import OfflineTrainer
from diffalign.training.run_log import MetricsLog, ProgressReport, Trackers, make_run_folder
from diffalign.training.signals import StopRequest

log = logging.getLogger(__name__)



@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: config.yaml, metrics.jsonl, samples/, checkpoints/, adapter/.
        config: the resolved settings.
        backbone: the model with the trained adapter in it.
        view: the view of the backbone that the run was for ("policy", or "ema" where an average is kept).
        steps: optimizer steps done.
    """

    folder: Path
    config: RunConfig
    backbone: Backbone = field(repr=False)
    view: str
    steps: int

    @property
    def generator(self) -> ImageGenerator:
        """Draws pictures as the section `evaluation` of the config says."""
        return build_generator(self.config, self.backbone)


def train(config: RunConfig, *, progress: bool = True) -> Run:
    """Train from settings, in a new run folder.

    Raises:
        ConfigError, DataError: something asked for cannot be had; nothing was trained.
        DivergenceError: a number went bad; the last checkpoint is unharmed.
        RunInterrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
        HealthStop: an alarm that is set to stop rang; a checkpoint was saved.
    """
    return _run(config, None, progress)


def resume(folder: Path, *, progress: bool = True) -> Run:
    """Go on with an interrupted run, to the bit; a finished one is only loaded.

    Raises:
        ConfigError: not a run folder.
        CheckpointError: its checkpoints are all damaged.
        And what `train` raises.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.yaml; give the folder that train printed")
    return _run(load_config((folder / "config.yaml").resolve()), folder, progress)


def load_run(folder: Path) -> Run:
    """Load the model and the adapter of a run, without training.

    Raises:
        ConfigError: not a run folder, or no adapter in it yet.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.yaml; give the folder that train printed")
    config = load_config((folder / "config.yaml").resolve())
    backbone = build_backbone(config, choose_device(config))
    if not (folder / "adapter").is_dir():
        raise ConfigError(f"{folder} has no adapter yet: finish it with diffalign train --resume {folder}")
    backbone.load_adapter(folder / "adapter")
    steps = [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]
    return Run(folder, config, backbone, "policy", max(steps, default=config.training.steps))


def _run(config: RunConfig, folder: Path | None, progress: bool) -> Run:
    training = config.training
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    device = choose_device(config)
    accelerator = Accelerator(mixed_precision=training.mixed_precision, cpu=device.type == "cpu")
    if accelerator.num_processes != training.processes:
        raise ConfigError(
            f"training.processes: the config asks for {training.processes}, this run has {accelerator.num_processes}; "
            f"start it with torchrun --nproc-per-node {training.processes}, or --set training.processes="
            f"{accelerator.num_processes}"
        )
    backbone = build_backbone(config, accelerator.device)
    data = build_data(config, backbone)
    objective = get_objective(config.objective.name)
    trainer = OfflineTrainer(
        config, backbone, data, objective, build_time(config, backbone.process), accelerator
    )
    fresh = folder is None
    if folder is None:
        folder = make_run_folder(config)
    elif list_checkpoints(folder):
        trainer.restore(load_latest(folder))
    log.info(
        "%s: %d groups, %d a step, %d parameters trained, on %s",
        folder,
        len(data),
        config.groups_per_step,
        sum(parameter.numel() for parameter in backbone.trained_parameters()),
        accelerator.device,
    )
    _Loop(config, folder, trainer, resume_step=None if fresh else trainer.step).go(progress)
    return Run(folder, config, backbone, trainer.final_view, trainer.step)


class _Loop:
    """The steps of one run, and what is written beside them."""

    def __init__(self, config: RunConfig, folder: Path, trainer: OfflineTrainer, *, resume_step: int | None) -> None:
        self.config = config
        self.folder = folder
        self.trainer = trainer
        self.main = trainer.accelerator.is_main_process
        self.monitor = HealthMonitor(config.health, trained_reward=config.evaluation.trained_reward)
        self.samples = _Samples(config, trainer, folder)
        self.log = MetricsLog(folder, resume_step=resume_step)
        self.trackers = Trackers(config, folder)
        for row in self.log.rows_before:  # the alarms look back over a window
            if row["event"] == "step":
                self.monitor.after_step(row)
            elif row["event"] == "samples":
                self.monitor.after_samples(row["rewards"])
        if resume_step:
            self.log.write("resume", resume_step)

    def go(self, progress: bool) -> None:
        steps, every = self.config.training.steps, self.config.training.checkpoint_every
        trainer = self.trainer
        try:
            if trainer.step == 0:
                self._draw_samples()
            with StopRequest() as stop, ProgressReport(steps, trainer.step, enabled=progress and self.main)() as bar:
                while trainer.step < steps:
                    metrics = trainer.train_step().metrics
                    bar.show(trainer.step, metrics)
                    alarms = self.monitor.after_step(metrics)
                    if trainer.step % self.config.training.log_every == 0 or trainer.step == steps or alarms:
                        self.log.write("step", trainer.step, **metrics)
                        self.trackers.write(trainer.step, metrics)
                    if self._samples_are_due():
                        alarms += self._draw_samples()
                    if stop.received is not None and trainer.step < steps:
                        self._save()
                        raise RunInterrupted(
                            f"{stop.received.name}: saved step {trainer.step}; go on with diffalign train --resume "
                            f"{self.folder}",
                            stop.received,
                        )
                    self._ring(alarms)
                    if every and trainer.step % every == 0 and trainer.step < steps:
                        self._save()
            self._save()
            if self.main:
                trainer.save_adapter(self.folder)
        finally:
            self.log.close()
            self.trackers.close()

    def _save(self) -> None:
        if self.main:
            save_checkpoint(self.folder, self.trainer.checkpoint(), keep=self.config.training.keep_checkpoints)
        self.trainer.accelerator.wait_for_everyone()

    def _samples_are_due(self) -> bool:
        every = self.config.samples.every
        return every is not None and (self.trainer.step % every == 0 or self.trainer.step == self.config.training.steps)

    def _draw_samples(self) -> list[Alarm]:
        if self.config.samples.every is None or not self.main:
            return []
        figures, diversity = self.samples.draw(self.trainer.step)
        self.log.write("samples", self.trainer.step, rewards=figures, diversity=diversity)
        self.trackers.write(self.trainer.step, {f"held_out/{name}": figure["mean"] for name, figure in figures.items()})
        return self.monitor.after_samples(figures)

    def _ring(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            log.warning("step %d: %s", self.trainer.step, alarm.message)
            self.log.write("alarm", self.trainer.step, alarm=alarm.alarm, action=alarm.action, message=alarm.message)
        stopping = [alarm for alarm in alarms if alarm.action == "stop"]
        if stopping:
            self._save()
            if self.main:
                self.trainer.save_adapter(self.folder)
            raise HealthStop(f"step {self.trainer.step}: {stopping[0].message}; saved in {self.folder}")


class _Samples:
    """Held-out pictures every so often: the same prompts and seeds each time, scored by every reward."""

    def __init__(self, config: RunConfig, trainer: OfflineTrainer, folder: Path) -> None:
        self._config = config
        self._trainer = trainer
        self._home = folder / "samples"
        self._prompts = held_out_prompts(config)[: config.samples.count] if config.samples.every else []
        self._rewards: list[Reward] = [build_reward(params) for params in config.evaluation.rewards]
        if config.samples.every is not None and not self._prompts:
            raise ConfigError("samples.every: needs evaluation.prompts, which says what to draw")

    def draw(self, step: int) -> tuple[dict[str, dict[str, float]], float]:
        started = time.monotonic()
        generator = build_generator(self._config, self._trainer.backbone)
        seeds = [self._config.evaluation.seed + number for number in range(len(self._prompts))]
        pictures = torch.cat(list(generator(self._prompts, seeds, view=self._trainer.final_view)))
        self._home.mkdir(exist_ok=True)
        save_picture(contact_sheet(pictures), self._home / f"step-{step}.png")
        figures = {}
        for reward in self._rewards:
            values = reward(pictures, self._prompts)
            scored = values[torch.isfinite(values)].double()
            if len(scored):
                spread = scored.std(correction=0).item()
                figures[reward.spec.name] = {"mean": scored.mean().item(), "spread": spread, "count": len(scored)}
        log.info("samples of step %d drawn in %.1f s", step, time.monotonic() - started)
        return figures, picture_diversity(pictures)
