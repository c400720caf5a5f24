"""The steps of a run, and all that is written beside them: metrics, samples, alarms, checkpoints."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.exceptions import DiffalignError, DivergenceError, HealthStop, RunInterrupted, RunPaused, SaveError
from diffalign.training.changed_settings import settings_of
from diffalign.training.checkpoint import save_checkpoint
from diffalign.training.health import Alarm, HealthMonitor
from diffalign.training.run_log import MetricsLog, ProgressReport, Trackers
from diffalign.training.samples import HeldOutSamples
from diffalign.training.signals import StopRequest
from diffalign.training.team import Team
from diffalign.training.trainer import Trainer

log = logging.getLogger(__name__)


class TrainingLoop:
    """The steps of one run, and what is written beside them."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        trainer: Trainer,
        monitor: HealthMonitor,
        prompts: Sequence[str],
        *,
        resume_step: int | None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.trainer = trainer
        self.monitor = monitor
        self.team = Team.of(trainer.accelerator)
        self._resumed = resume_step is not None
        self.main = self.team.is_main
        self.samples = HeldOutSamples(config, trainer, folder, prompts)
        self.log = MetricsLog(folder, resume_step=resume_step, enabled=self.main)
        self.trackers = Trackers(config, folder, resume_step=resume_step, enabled=self.main)
        if resume_step is not None:
            training = config.training
            self.log.write(
                "resume",
                resume_step,
                processes=training.processes,
                accumulation=training.accumulation,
                groups=training.groups,
            )

    def go(self, progress: bool) -> None:
        steps, trainer = self.config.training.steps, self.trainer
        try:
            if trainer.step == 0 and not self._resumed:  # a run that waits for people has drawn them already
                self._draw_samples()
            with StopRequest() as stop:
                self._train(stop, progress)
                self._save()
                trainer.save_adapter(self.folder)
                received = self._received_anywhere(stop)
            if received:
                raise RunInterrupted(
                    f"{signal.Signals(received).name}: all {steps} steps are done and saved; go on to the comparison with "
                    f"diffalign eval {self.folder}",
                    received,
                )
        except OSError as error:
            if isinstance(error, DiffalignError):
                raise
            raise SaveError(
                f"{self.folder}: cannot be written ({error.strerror or error}) at step {trainer.step}; its checkpoints are "
                f"unharmed: free some space and go on with diffalign train --resume {self.folder}"
            ) from None
        finally:
            self.log.close()
            self.trackers.close()

    def _train(self, stop: StopRequest, progress: bool) -> None:
        """The steps that are left.

        Raises:
            DivergenceError: a number went bad.
            HealthStop: an alarm that is set to stop rang.
            RunInterrupted: a signal came before the last one.
        """
        steps, every, trainer = self.config.training.steps, self.config.training.checkpoint_every, self.trainer
        with ProgressReport(steps, trainer.step, enabled=progress and self.main)() as bar:
            while trainer.step < steps:
                metrics = self._take_step()
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
        if trainer.skipped_steps:
            log.info("%d of %d steps were passed over: gradients overflowed fp16", trainer.skipped_steps, steps)

    def _take_step(self) -> dict[str, float]:
        try:
            return self.trainer.train_step().metrics
        except DivergenceError as error:
            self.log.write("alarm", self.trainer.step + 1, alarm="not_finite", action="stop", message=str(error))
            raise
        except RunPaused:
            self._save()
            raise

    def _received_anywhere(self, stop: StopRequest) -> int:
        """The signal that this or another process got, or 0: all processes must stop after the same step."""
        accelerator, received = self.trainer.accelerator, int(stop.received or 0)
        if accelerator.num_processes == 1:
            return received
        return int(accelerator.gather(torch.tensor([received], device=accelerator.device)).max())

    def _save(self) -> None:
        checkpoint = self.trainer.checkpoint()
        checkpoint.trainer["health"] = self.monitor.state()
        checkpoint.trainer["settings"] = settings_of(self.config)
        save_checkpoint(self.folder, checkpoint, keep=self.config.training.keep_checkpoints, team=self.team)

    def _samples_are_due(self) -> bool:
        every = self.config.samples.every
        return every is not None and (self.trainer.step % every == 0 or self.trainer.step == self.config.training.steps)

    def _draw_samples(self) -> list[Alarm]:
        if self.config.samples.every is None:
            return []
        pictures = self.samples.draw()
        return self.team.from_main(lambda: self._judge_samples(pictures))

    def _judge_samples(self, pictures: Tensor) -> list[Alarm]:
        seen = self.samples.judge(pictures, self.trainer.step)
        self.log.write("samples", self.trainer.step, **{k: v for k, v in seen._asdict().items() if v is not None})
        means = {f"held_out/{name}": figure["mean"] for name, figure in seen.rewards.items()}
        self.trackers.write(self.trainer.step, means)
        return self.monitor.after_samples(*seen)

    def _ring(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            log.warning("step %d: alarm %s: %s", self.trainer.step, alarm.alarm, alarm.message)
            self.log.write("alarm", self.trainer.step, alarm=alarm.alarm, action=alarm.action, message=alarm.message)
        stopping = [alarm for alarm in alarms if alarm.action == "stop"]
        if stopping:
            self._save()
            self.trainer.save_adapter(self.folder)
            raise HealthStop(f"step {self.trainer.step}: {stopping[0].message}; saved in {self.folder}")
