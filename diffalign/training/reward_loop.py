"""The steps of a run that trains a reward, what is written beside them, and what is left in the run folder."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from diffalign.backbones import replace_folder
from diffalign.config import RewardRunConfig, with_absolute_paths
from diffalign.exceptions import DiffalignError, DivergenceError, RunInterrupted, SaveError
from diffalign.rewards.learned import RESULT, LearnedReward, ScorerSettings, save_learned
from diffalign.training.changed_settings import flat_settings
from diffalign.training.checkpoint import save_checkpoint
from diffalign.training.reward_trainer import Prepared, RewardTrainer, measure
from diffalign.training.run_log import MetricsLog, ProgressReport, write_json
from diffalign.training.signals import StopRequest

_log = logging.getLogger(__name__)
_FREE = {  # what no step follows from
    "name", "folder", "device", "log", "data.cache", "data.on_bad", "training.steps", "training.evaluate_every",
    "training.checkpoint_every", "training.keep_checkpoints", "training.log_every", "training.threads",
}  # fmt: skip
_MEASURES = "held_out.json"


@dataclass(frozen=True)
class RewardRun:
    """A finished run.

    Attributes:
        folder: config.yaml, metrics.jsonl, checkpoints/, reward/ and, with held-out prompts, held_out.json.
        config: the resolved settings.
        reward: what was trained, as `load_reward("learned", path=folder)` gives it.
        held_out: by dimension, how well it agrees with comparisons of prompts that it has not seen; empty if none are kept.
        steps: optimizer steps done.
        trained: whether this call did any of them.
    """

    folder: Path
    config: RewardRunConfig = field(repr=False)
    reward: LearnedReward = field(repr=False)
    held_out: Mapping[str, Mapping[str, Any]]
    steps: int
    trained: bool = True


def steps_follow_from(config: RewardRunConfig) -> dict[str, Any]:
    """The settings that a resumed run must have as they were, by dotted path."""
    free = _FREE if config.optimizer.schedule == "constant" else _FREE - {"training.steps"}
    return dict(flat_settings(with_absolute_paths(config).model_dump(mode="json"), "", free))


class RewardLoop:
    """The steps of a run, and what is written beside them."""

    def __init__(
        self,
        config: RewardRunConfig,
        folder: Path,
        trainer: RewardTrainer,
        test: Prepared | None,
        settings: ScorerSettings,
        *,
        resumed: bool,
    ) -> None:
        self.config, self.folder, self.trainer, self.test, self.settings = config, folder, trainer, test, settings
        self._resumed = resumed
        self._measures: dict[str, dict[str, Any]] = {}

    def go(self, progress: bool) -> None:
        """Train to the last step and write the result.

        Raises:
            DivergenceError: a number went bad.
            RunInterrupted: a signal came; a checkpoint was saved.
            SaveError: the folder cannot be written.
        """
        trainer, folder, steps = self.trainer, self.folder, self.config.training.steps
        metrics = MetricsLog(folder, resume_step=trainer.step if self._resumed else None)
        try:
            if self._resumed:
                metrics.write("resume", trainer.step)
            with StopRequest() as stop, ProgressReport(steps, trainer.step, enabled=progress)() as bar:
                while trainer.step < steps:
                    self._step(metrics, bar)
                    if stop.received and trainer.step < steps:
                        self._save()
                        raise RunInterrupted(
                            f"{signal.Signals(stop.received).name}: saved step {trainer.step}; go on with diffalign train "
                            f"--resume {folder}",
                            int(stop.received),
                        )
                    every = self.config.training.checkpoint_every
                    if every and trainer.step % every == 0 and trainer.step < steps:
                        self._save()
                self._save()
                self._write_result()
        except OSError as error:
            if isinstance(error, DiffalignError):
                raise
            raise SaveError(
                f"{folder}: cannot be written ({error.strerror or error}) at step {trainer.step}; its checkpoints are "
                f"unharmed: free some space and go on with diffalign train --resume {folder}"
            ) from None
        finally:
            metrics.close()

    def _step(self, metrics: MetricsLog, bar: ProgressReport) -> None:
        trainer, training = self.trainer, self.config.training
        try:
            figures = trainer.train_step()
        except DivergenceError as error:
            metrics.write("alarm", trainer.step + 1, alarm="not_finite", action="stop", message=str(error))
            raise
        bar.show(trainer.step, figures)
        last, every = trainer.step == training.steps, training.evaluate_every
        if trainer.step % training.log_every == 0 or last:
            metrics.write("step", trainer.step, **figures)
        if self.test is not None and (last or (every and trainer.step % every == 0)):
            self._measures = measure(trainer.scorer, self.test, self.config.reward.dimensions, trainer.device)
            metrics.write("held_out", trainer.step, dimensions=self._measures)
            _log.info("step %d: right on held-out prompts: %s", trainer.step, _shares(self._measures))

    def _save(self) -> None:
        checkpoint = self.trainer.checkpoint()
        checkpoint.trainer["settings"] = steps_follow_from(self.config)
        save_checkpoint(self.folder, checkpoint, keep=self.config.training.keep_checkpoints)

    def _write_result(self) -> None:
        """The reward's folder in its place whole; result.json, which says of which step it is, comes last."""
        draft = self.folder / f".{RESULT}.partial"
        shutil.rmtree(draft, ignore_errors=True)
        save_learned(draft, self.trainer.scorer, self._told())
        replace_folder(draft, self.folder / RESULT)
        if self.test is not None:
            write_json(self.folder / _MEASURES, self._held_out())
        write_json(self.folder / "result.json", {"step": self.trainer.step, "view": "reward"})

    def _held_out(self) -> dict[str, dict[str, Any]]:
        if self.test is not None and not self._measures:  # a run that was cut after its last step, or is finished
            self._measures = measure(self.trainer.scorer, self.test, self.config.reward.dimensions, self.trainer.device)
        return self._measures

    def _told(self) -> ScorerSettings:
        config = self.config
        about = {
            "data": config.data.path,
            "loss": config.loss.model_dump(mode="json"),
            "steps": self.trainer.step,
            "held_out": self._held_out(),
            "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        }
        kept = self.settings
        return ScorerSettings(kept.name, kept.options, kept.dimensions, kept.weights, about)

    def finished(self, *, trained: bool) -> RewardRun:
        reward = LearnedReward(self.trainer.scorer, self._told())
        return RewardRun(self.folder, self.config, reward, self._held_out(), self.trainer.step, trained)


def _shares(measures: Mapping[str, Mapping[str, Any]]) -> str:
    told = {name: each["accuracy"] for name, each in measures.items()}
    return ", ".join(f"{name} {'nothing to say' if one is None else f'{one:.1%}'}" for name, one in told.items())
