"""The offline loop: groups from a data set, errors from the primitive, one objective, one optimizer step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import GroupData, TrainingOrder, seeded
from diffalign.denoising import NoiseDraw, SampleTime, StratifiedTime, draw_noise
from diffalign.exceptions import CheckpointError, DataError
from diffalign.objectives import Objective
from diffalign.training.changed_settings import begun_with, check_same_model
from diffalign.training.checkpoint import Checkpoint, Progress
from diffalign.training.health import check_finite
from diffalign.training.inverted_noise import training_noise
from diffalign.training.learning_rate import learning_rate_factor
from diffalign.training.loss_scale import LossScale
from diffalign.training.micro_batch import GroupLoss, MicroBatch
from diffalign.training.optimizer import build_optimizer
from diffalign.training.piece_files import join_optimizer, placed, split_optimizer
from diffalign.training.record_checks import check_records
from diffalign.training.reference_bank import ReferenceBank
from diffalign.training.result import write_result
from diffalign.training.sharding import hold_views, shards, whole
from diffalign.training.step_metrics import with_reward_spread
from diffalign.types import GroupBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """Means over the groups of one optimizer step, over all processes; and its records."""

    metrics: dict[str, float]
    record_ids: tuple[str, ...]


class OfflineTrainer:
    """Holds what one optimizer step needs. The data position, and every draw, follow from the step and the seed.

    A step that fp16's loss scale passes over counts as a step, so that the next one draws other records; weights, schedule
    and average stay as they are.
    """

    def __init__(
        self,
        config: RunConfig,
        backbone: Backbone,
        data: GroupData,
        objective: Objective,
        sample_time: SampleTime,
        accelerator: Accelerator,
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.data = data
        self.accelerator = accelerator
        self.step = 0
        self.seconds = 0.0
        self._order = TrainingOrder(len(data), config.seed, data.latents.buckets, config.training.groups)
        self._objective = objective
        self._sample_time = sample_time
        check_records(config, objective, data)
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
        self._bank = self._filled_bank() if config.training.reference_bank is not None else None
        if self._bank is not None:
            backbone.release("reference")

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
        ids: list[str] = []
        bad: list[str] = []
        sums: dict[str, float] = {}
        baseline = None
        if "baseline" in self.config.objective.inputs() and training.accumulation > 1:  # of one, from its own errors
            baseline = self._loss.baseline(self._micro_batch(number) for number in range(training.accumulation))
        for number in range(training.accumulation):
            micro = self._micro_batch(number)
            metrics, spoilt = self._loss.backward(micro, partial(self._dropout_draws, number), baseline)
            if alone:
                check_finite(self.step + 1, metrics, spoilt or micro.batch.record_ids)
            bad += spoilt
            ids += micro.batch.record_ids
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        metrics = {name: self._mean(value / training.accumulation) for name, value in sums.items()}
        if not alone and not all(map(math.isfinite, metrics.values())):  # in all of them: none must wait for another
            check_finite(self.step + 1, metrics, gather_object(bad) or gather_object(ids))
        metrics = with_reward_spread(metrics)
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
        metrics["seconds_per_step"] = time.monotonic() - started
        self.seconds += metrics["seconds_per_step"]
        return StepResult(metrics, tuple(ids))

    def _positions(self, number: int) -> list[int]:
        """Where the groups of one forward of this process stand in the endless training order."""
        groups = self.config.training.groups
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = self.step * self.config.groups_per_step + (number * processes + rank) * groups
        return list(range(first, first + groups))

    def _place(self, position: int) -> tuple[int, int]:
        """(epoch, record number); with a reference bank, the epoch whose draws this one repeats."""
        epoch, number = self._order.place(position)
        return epoch if self._bank is None else epoch % self._bank.epochs, number

    def _micro_batch(self, number: int) -> MicroBatch:
        positions = self._positions(number)
        places = [self._place(position) for position in positions]
        batch, draw = self._drawn(places, positions)
        reference = None if self._bank is None else self._bank.of(places).to(self.backbone.device)
        last = number == self.config.training.accumulation - 1
        return MicroBatch(batch, draw, reference, last, progress=self.step / self.config.training.steps)

    def _drawn(self, places: Sequence[tuple[int, int]], positions: Sequence[int]) -> tuple[GroupBatch, NoiseDraw]:
        """The groups at these places and their draws, on the device."""
        batch, device = self.data.batch(places), self.backbone.device
        _refuse_invalid(batch)
        draw = self._draw(batch, [epoch for epoch, _ in places], positions).to(device)
        return training_noise(self.config, self.backbone, self.accelerator, batch.to(device), draw)

    def _filled_bank(self) -> ReferenceBank:
        config, training = self.config, self.config.training
        assert training.reference_bank is not None
        key = {
            "model": [self.backbone.fingerprint("network"), self.backbone.fingerprint("text")],
            "data": self.data.content_hash,
            "seed": config.seed,
            "time": config.time.model_dump(mode="json"),
            "empty_prompt_share": config.data.empty_prompt_share,
            "measure": training.measure or self._objective.measure,
            "shared": [training.share_noise, training.share_time],
            "precision": [training.mixed_precision, config.model.reference.model_dump(mode="json")],
        }
        home = Path(config.data.cache) if config.data.cache else Path(config.folder) / "cache"
        members = self.data.batch([(0, 0)]).members
        bank = ReferenceBank(home, key, training.reference_bank, (len(self.data), members))
        groups = training.steps * config.groups_per_step
        if groups <= bank.epochs * self._order.epoch_length:
            log.warning(
                "training.reference_bank: this run sees %d groups and the bank holds %d: none comes twice, so it saves "
                "no time in this run, only in later ones",
                groups,
                bank.epochs * self._order.epoch_length,
            )

        def compute(epoch: int, numbers: list[int]) -> torch.Tensor:
            return self._loss.reference_errors(*self._drawn([(epoch, number) for number in numbers], numbers))

        visited = bank.visited(groups, self._order)
        bank.fill(visited, compute, self.accelerator, batch=training.groups, buckets=self.data.latents.buckets)
        return bank

    def _draw(self, batch: GroupBatch, epochs: Sequence[int], positions: Sequence[int]) -> NoiseDraw:
        """A group's draw follows from the seed, the epoch and its record: not from what else is in the batch."""
        training, seed = self.config.training, self.config.seed
        samplers: SampleTime | list[SampleTime] = self._sample_time
        if isinstance(self._sample_time, StratifiedTime):  # group number k of the step gets the k-th stratum
            samplers = [self._sample_time.stratum(position) for position in positions]
        generators = [seeded(seed, epoch, name, "noise") for epoch, name in zip(epochs, batch.record_ids, strict=True)]
        return draw_noise(
            batch.x0, samplers, generator=generators, share_noise=training.share_noise, share_time=training.share_time
        )

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

    def checkpoint(self) -> Checkpoint:
        """All that the next step depends on; no generator is among it, because every draw is seeded by what it is for."""
        optimizer, pieces = split_optimizer(self._optimizer.state_dict())
        trainer = {
            "optimizer": optimizer,
            "schedule": self._schedule.state_dict(),
            "scaler": self._loss_scale.state(),
            "data": self.data.content_hash,
            **self._begun_with,
        }
        states = {name: self.backbone.state(name) for name in dict.fromkeys(["policy", self.final_view])}
        return Checkpoint(Progress(self.step, self.seconds), states, trainer, pieces)

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
        if trainer["data"] != self.data.content_hash:
            log.warning("the records have changed since the checkpoint: the run goes on, but not as it would have")
        self._loss_scale.restore(trainer["scaler"])
        self.step, self.seconds = checkpoint.progress.step, checkpoint.progress.seconds

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


def _refuse_invalid(batch: GroupBatch) -> None:
    """What is not finite was left out when the data was read: here it would be trained on.

    Raises:
        DataError: names the records.
    """
    wrong = [name for name, fine in zip(batch.record_ids, batch.valid.all(1).tolist(), strict=True) if not fine]
    if wrong:
        shown = ", ".join(wrong[:8]) + (", ..." if len(wrong) > 8 else "")
        raise DataError(f"latents are not finite in records {shown}; leave these records out, or mend their pictures")
