"""A run from its first step to its last: the folder, the loop, samples, checkpoints, alarms, resuming."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from diffalign.backbones import Backbone
from diffalign.config import RunConfig, load_config
from diffalign.config.run import Precision
from diffalign.exceptions import ConfigError, HealthStop, RunInterrupted
from diffalign.objectives import get_objective
from diffalign.pipelines import ImageGenerator
from diffalign.training.build import (
    build_backbone,
    build_data,
    build_generator,
    build_time,
    check_device,
    choose_device,
    find_device,
    held_out_prompts,
)
from diffalign.training.checkpoint import list_checkpoints, load_latest, save_checkpoint
from diffalign.training.health import Alarm, HealthMonitor
from diffalign.training.offline import OfflineTrainer
from diffalign.training.run_log import (
    MetricsLog,
    ProgressReport,
    Trackers,
    check_folder,
    check_trackers,
    make_run_folder,
)
from diffalign.training.samples import HeldOutSamples
from diffalign.training.signals import StopRequest

log = logging.getLogger(__name__)
Value = TypeVar("Value")


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
    return _run(_config_of(folder), folder, progress)


def load_run(folder: Path, *, device: str | None = None, precision: Precision | None = None) -> Run:
    """Load the model and the adapter of a run, without training.

    Args:
        folder: the run folder.
        device: where to load it; None is what the run's config says.
        precision: of the frozen weights; None is what the run's config says.

    Raises:
        ConfigError: not a run folder, or no adapter in it yet.
    """
    config = _config_of(folder)
    if precision is not None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"precision": precision})})
    if not (folder / "adapter").is_dir():
        raise ConfigError(f"{folder} has no adapter yet: finish it with diffalign train --resume {folder}")
    backbone = build_backbone(config, choose_device(config) if device is None else find_device(device))
    backbone.load_adapter(folder / "adapter")
    steps = [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]
    return Run(folder, config, backbone, "policy", max(steps, default=config.training.steps))


def _config_of(folder: Path) -> RunConfig:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.yaml; give the folder that train printed")
    return load_config((folder / "config.yaml").resolve())


def _run(config: RunConfig, folder: Path | None, progress: bool) -> Run:
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    accelerator = _start_accelerator(config)
    if folder is None:
        check_folder(config)
    check_trackers(config)
    prompts = held_out_prompts(config)  # a missing file is found now, not after hours of training
    backbone = build_backbone(config, accelerator.device)
    build_generator(config, backbone)  # and so are sampler settings that the model does not take
    data = build_data(config, backbone)
    objective = get_objective(config.objective.name)
    trainer = OfflineTrainer(config, backbone, data, objective, build_time(config, backbone.process), accelerator)
    monitor = HealthMonitor(config.health, trained_reward=config.evaluation.trained_reward)
    started = False
    if folder is None:
        folder = _from_main(accelerator, lambda: make_run_folder(config))
    elif list_checkpoints(folder):
        saved = load_latest(folder)
        trainer.restore(saved)
        monitor.restore(saved.trainer["health"])
        started = True
        if trainer.step >= config.training.steps and (folder / "adapter").is_dir():
            return _finished(folder, config, trainer)
    else:
        log.info("%s: no checkpoint yet: starting from step 0", folder)
    log.info(
        "%s: %d groups, %d a step, %d parameters trained, on %s",
        folder,
        len(data),
        config.groups_per_step,
        sum(parameter.numel() for parameter in backbone.trained_parameters()),
        accelerator.device,
    )
    loop = _Loop(config, folder, trainer, monitor, prompts, resume_step=trainer.step if started else None)
    try:
        loop.go(progress)
    except (RunInterrupted, HealthStop):  # raised by all processes after the same step
        _part(trainer)
        raise
    return _finished(folder, config, trainer)


def _finished(folder: Path, config: RunConfig, trainer: OfflineTrainer) -> Run:
    _part(trainer)
    return Run(folder, config, trainer.backbone, trainer.final_view, trainer.step)


def _part(trainer: OfflineTrainer) -> None:
    """Go on as a process of its own: one draws and compares alone while the others end.

    Torch's distributed threads abort a process that ends before them ("terminate called without an active exception"), and
    they end when the wrapped network is gone and the process group is destroyed.
    """
    trainer.backbone.prepare(lambda module: module)
    accelerator = trainer.accelerator
    several = accelerator.num_processes > 1
    accelerator.free_memory()
    if several:
        gc.collect()  # the wrapper and its reducer refer to each other
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)


def _start_accelerator(config: RunConfig) -> Accelerator:
    """The distributed engine, for the device, precision and number of processes that the config asks for.

    Raises:
        ConfigError: device, precision or number of processes cannot be had here.
    """
    training, device = config.training, choose_device(config)
    if AcceleratorState._shared_state.get("_mixed_precision", training.mixed_precision) != training.mixed_precision:
        AcceleratorState._reset_state()  # an earlier run in this process had another precision
    earlier = PartialState._shared_state
    if earlier and earlier["num_processes"] == 1 and earlier["device"].type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)  # or another device
    # one process draws the held-out pictures alone: a forward pass must not wait for the others' buffers
    alone = DistributedDataParallelKwargs(broadcast_buffers=False)
    try:
        accelerator = Accelerator(
            mixed_precision=training.mixed_precision, cpu=device.type == "cpu", kwargs_handlers=[alone]
        )
    except ValueError as error:
        raise ConfigError(
            f"training.mixed_precision: {training.mixed_precision!r} cannot be used here: {error}"
        ) from None
    if accelerator.num_processes != training.processes:
        raise ConfigError(
            f"training.processes: the config asks for {training.processes}, this run has {accelerator.num_processes}; "
            f"start it with torchrun --nproc-per-node {training.processes}, or --set training.processes="
            f"{accelerator.num_processes}"
        )
    check_device(config, accelerator.device)
    return accelerator


def _from_main(accelerator: Accelerator, make: Callable[[], Value]) -> Value:
    """What `make` returns in the main process, in all of them; it is called there alone."""
    made: list[Any] = [make() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(made)
    return made[0]


class _Loop:
    """The steps of one run, and what is written beside them."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        trainer: OfflineTrainer,
        monitor: HealthMonitor,
        prompts: Sequence[str],
        *,
        resume_step: int | None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.trainer = trainer
        self.monitor = monitor
        self.main = trainer.accelerator.is_main_process
        self.samples = HeldOutSamples(config, trainer, folder, prompts)
        self.log = MetricsLog(folder, resume_step=resume_step, enabled=self.main)
        self.trackers = Trackers(config, folder, enabled=self.main)
        if resume_step is not None:
            self.log.write("resume", resume_step)

    def go(self, progress: bool) -> None:
        steps, trainer = self.config.training.steps, self.trainer
        try:
            if trainer.step == 0:
                self._draw_samples()
            with StopRequest() as stop:
                self._train(stop, progress)
                self._save()
                if self.main:
                    trainer.save_adapter(self.folder)
                received = self._received_anywhere(stop)
            if received:
                raise RunInterrupted(
                    f"{signal.Signals(received).name}: all {steps} steps are done and saved; go on to the comparison with "
                    f"diffalign eval {self.folder}",
                    received,
                )
        finally:
            self.log.close()
            self.trackers.close()

    def _train(self, stop: StopRequest, progress: bool) -> None:
        """The steps that are left.

        Raises:
            RunInterrupted: a signal came before the last one.
        """
        steps, every, trainer = self.config.training.steps, self.config.training.checkpoint_every, self.trainer
        with ProgressReport(steps, trainer.step, enabled=progress and self.main)() as bar:
            while trainer.step < steps:
                metrics = trainer.train_step().metrics
                bar.show(trainer.step, metrics)
                alarms = self.monitor.after_step(metrics)
                if trainer.step % self.config.training.log_every == 0 or trainer.step == steps or alarms:
                    self.log.write("step", trainer.step, **metrics)
                    self.trackers.write(trainer.step, metrics)
                if self._samples_are_due():
                    alarms += self._draw_samples()
                self._ring(alarms)
                received = self._received_anywhere(stop)
                if received and trainer.step < steps:
                    self._save()
                    raise RunInterrupted(
                        f"{signal.Signals(received).name}: saved step {trainer.step}; go on with diffalign train "
                        f"--resume {self.folder}",
                        received,
                    )
                if every and trainer.step % every == 0 and trainer.step < steps:
                    self._save()

    def _received_anywhere(self, stop: StopRequest) -> int:
        """The signal that this or another process got, or 0: all processes must stop after the same step."""
        accelerator, received = self.trainer.accelerator, int(stop.received or 0)
        if accelerator.num_processes == 1:
            return received
        return int(accelerator.gather(torch.tensor([received], device=accelerator.device)).max())

    def _save(self) -> None:
        if self.main:
            checkpoint = self.trainer.checkpoint()
            checkpoint.trainer["health"] = self.monitor.state()
            save_checkpoint(self.folder, checkpoint, keep=self.config.training.keep_checkpoints)
        self.trainer.accelerator.wait_for_everyone()

    def _samples_are_due(self) -> bool:
        every = self.config.samples.every
        return every is not None and (self.trainer.step % every == 0 or self.trainer.step == self.config.training.steps)

    def _draw_samples(self) -> list[Alarm]:
        if self.config.samples.every is None:
            return []
        return _from_main(self.trainer.accelerator, self._draw_samples_here)

    def _draw_samples_here(self) -> list[Alarm]:
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
