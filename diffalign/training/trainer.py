"""What every loop shares: one optimizer step over whatever groups its source gives, and what a checkpoint keeps of it."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import seeded
from diffalign.exceptions import CheckpointError
from diffalign.objectives import Objective
from diffalign.training.changed_settings import begun_with, check_same_model
from diffalign.training.checkpoint import Checkpoint, Progress
from diffalign.training.health import check_finite
from diffalign.training.learning_rate import learning_rate_factor
from diffalign.training.loss_scale import LossScale
from diffalign.training.micro_batch import GroupLoss, MicroBatch
from diffalign.training.optimizer import build_optimizer
from diffalign.training.piece_files import join_optimizer, placed, split_optimizer
from diffalign.training.result import write_result
from diffalign.training.sharding import hold_views, shards, whole
from diffalign.training.step_metrics import without_sums

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """Means over the groups of one optimizer step, over all processes; and its records."""

    metrics: dict[str, float]
    record_ids: tuple[str, ...]


class Trainer(ABC):
    """Holds what one optimizer step needs. Where its groups come from is what the loops differ in.

    A step that fp16's loss scale passes over counts as a step, so that the next one draws other records; weights, schedule
    and average stay as they are.
    """

    def __init__(self, config: RunConfig, backbone: Backbone, objective: Objective, accelerator: Accelerator) -> None:
        self.config = config
        self.backbone = backbone
        self.accelerator = accelerator
        self.step = 0
        self.seconds = 0.0
        self.folder: Path | None = None  # of the run, once it is made
        self._objective = objective
        hold_views(config, backbone)
        self._parameters = backbone.trained_parameters()
        optimizer = build_optimizer(config.optimizer, self._parameters)
        if not shards(config, accelerator):  # in pieces, it is prepared already: the optimizer is made of them
            backbone.prepare(accelerator.prepare)
        # the schedule first: it wraps `step`, and with a gradient scaler accelerate puts back the one that it found
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config))
        self._optimizer: Any = accelerator.prepare(optimizer)
        self._loss_scale = LossScale(accelerator.scaler)
        self._loss = GroupLoss(config, backbone, objective, accelerator)

    # ------------------------------------------------------------ what a loop says

    @property
    @abstractmethod
    def groups(self) -> int:
        """Groups, or prompts, that there are to train on."""

    @property
    @abstractmethod
    def content_hash(self) -> str:
        """Changes with anything that the steps follow from beside the settings and the model."""

    @abstractmethod
    def _micro_batch(self, number: int) -> MicroBatch:
        """The groups of forward `number` of this step, of this process."""

    def _begin_step(self) -> dict[str, float]:
        """What comes before the forwards of a step; figures of it."""
        return {}

    def _end_step(self, *, skipped: bool) -> None:  # noqa: B027
        """What comes after the optimizer has stepped, or has passed over the step."""

    def _backward(self, number: int, baseline: Tensor | None) -> tuple[dict[str, float], tuple[str, ...], list[str]]:
        """Forward `number` and its backward: means of its figures, the records whose loss is not finite, all records."""
        micro = self._micro_batch(number)
        metrics, spoilt = self._loss.backward(micro, partial(self._dropout_draws, number), baseline)
        return metrics, spoilt, list(micro.batch.record_ids)

    def _own_tensors(self) -> Mapping[str, Tensor]:
        """What this process alone has to keep in a checkpoint."""
        return {}

    def _state(self) -> dict[str, Any]:
        """What a loop keeps in a checkpoint beside that, alike in all processes; plain values."""
        return {}

    def _restore_own(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: B027
        """Put both back, the tensors of all the processes that wrote them; `step` is set already."""

    # ------------------------------------------------------------ one optimizer step

    def train_step(self) -> StepResult:
        """One optimizer step.

        Raises:
            DivergenceError: the loss or a gradient is not finite, in all processes at once; the weights are as before.
            DataError: a member of a group is not valid.
        """
        started = time.monotonic()
        training = self.config.training
        alone = self.accelerator.num_processes == 1
        begun = self._begin_step()
        ids: list[str] = []
        bad: list[str] = []
        sums: dict[str, float] = {}
        baseline = None
        if "baseline" in self.config.objective.inputs() and training.accumulation > 1:  # of one, from its own errors
            baseline = self._loss.baseline(self._micro_batch(number) for number in range(training.accumulation))
        for number in range(training.accumulation):
            metrics, spoilt, names = self._backward(number, baseline)
            if alone:
                check_finite(self.step + 1, metrics, spoilt or names)
            bad += spoilt
            ids += names
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        metrics = {name: self._mean(value / training.accumulation) for name, value in sums.items()}
        if not alone and not all(map(math.isfinite, metrics.values())):  # in all of them: none must wait for another
            check_finite(self.step + 1, metrics, gather_object(bad) or gather_object(ids))
        metrics = without_sums(metrics) | begun
        norm = self.accelerator.clip_grad_norm_(self._parameters, self.config.optimizer.max_grad_norm)
        metrics["gradient_norm"] = float(whole(norm))  # before clipping
        if self.accelerator.scaler is None:  # a scaler passes over such a step
            check_finite(self.step + 1, {"gradient_norm": metrics["gradient_norm"]}, ids)
        metrics["learning_rate"] = float(self._schedule.get_last_lr()[0])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        skipped = self._optimizer.step_was_skipped
        self._loss_scale.note(self.step + 1, ids, skipped=skipped)
        metrics |= self._loss_scale.figures()
        self.step += 1
        if not skipped:
            self._schedule.step()
            if self.config.training.ema_decay is not None:
                self.backbone.snapshot("ema", self.config.training.ema_decay)
        self._end_step(skipped=skipped)
        passed = time.monotonic() - started
        metrics["seconds_per_step"] = passed - begun.get("seconds_per_round", 0.0)  # the drawing stands apart
        self.seconds += passed
        return StepResult(metrics, tuple(ids))

    @contextmanager
    def _dropout_draws(self, number: int) -> Iterator[None]:
        """Inside, what the network draws (dropout) follows from the seed, step and place of this forward."""
        if not self.config.model.lora.dropout:
            yield
            return
        place = f"{number * self.accelerator.num_processes + self.accelerator.process_index}"
        seed = seeded(self.config.seed, self.step, place, "dropout").initial_seed()
        device = self.accelerator.device
        on_gpu = device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            yield

    def _mean(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "mean"))

    # ------------------------------------------------------------ checkpoints

    @cached_property
    def _begun_with(self) -> dict[str, str]:
        return begun_with(self.backbone)

    @property
    def _kept_views(self) -> tuple[str, ...]:
        """The views, beside the policy and the final one, that the next step depends on."""
        return ()

    def checkpoint(self) -> Checkpoint:
        """All that the next step depends on; no generator is among it, because every draw is seeded by what it is for."""
        optimizer, pieces = split_optimizer(self._optimizer.state_dict())
        trainer = {
            "optimizer": optimizer,
            "schedule": self._schedule.state_dict(),
            "scaler": self._loss_scale.state(),
            "data": self.content_hash,
            "loop": self._state(),
            **self._begun_with,
        }
        views = dict.fromkeys(["policy", self.final_view, *self._kept_views])
        states = {name: self.backbone.state(name) for name in views}
        return Checkpoint(Progress(self.step, self.seconds), states, trainer, pieces, self._own_tensors())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, to the bit.

        Raises:
            CheckpointError: it is of another model, adapter or optimizer than the config says.
        """
        trainer = checkpoint.trainer
        check_same_model(trainer, self._begun_with, self.config)
        try:
            for name, state in checkpoint.adapters.items():
                self.backbone.load_state(name, placed(state, self.backbone.state(name)))
            self._optimizer.load_state_dict(join_optimizer(trainer["optimizer"], checkpoint.pieces, self._parameters))
            self._schedule.load_state_dict(trainer["schedule"])
        except (ValueError, LookupError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.progress.step} does not fit the run's config.yaml: {error}"
            ) from None
        if trainer["data"] != self.content_hash:
            log.warning("the records have changed since the checkpoint: the run goes on, but not as it would have")
        self._loss_scale.restore(trainer["scaler"])
        self.step, self.seconds = checkpoint.progress.step, checkpoint.progress.seconds
        self._restore_own(checkpoint.own, trainer.get("loop", {}))

    @property
    def skipped_steps(self) -> int:
        """Steps so far that fp16's loss scale passed over."""
        return self._loss_scale.skipped

    @property
    def final_view(self) -> str:
        """The network that the run is for: the average where one is kept."""
        averaged = self.config.training.ema_decay is not None and self.step > self.skipped_steps
        return "ema" if averaged else "policy"

    def save_adapter(self, run: Path) -> None:
        """Write what was trained into the run folder: adapter/, or model/ of full fine-tuning."""
        write_result(run, self.config, self.backbone, self.final_view, self.accelerator, self.step)
