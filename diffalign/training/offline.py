"""The offline loop: groups from a data set, errors from the primitive, one objective, one optimizer step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import GroupData, TrainingOrder, seeded
from diffalign.denoising import NoiseDraw, SampleTime, StratifiedTime, draw_noise
from diffalign.exceptions import DataError
from diffalign.objectives import Objective
from diffalign.training.inverted_noise import training_noise
from diffalign.training.micro_batch import MicroBatch
from diffalign.training.record_checks import check_records
from diffalign.training.reference_bank import ReferenceBank
from diffalign.training.trainer import StepResult, Trainer
from diffalign.types import GroupBatch

__all__ = ["OfflineTrainer", "StepResult"]
log = logging.getLogger(__name__)


class OfflineTrainer(Trainer):
    """Trains on records. The data position, and every draw, follow from the step and the seed."""

    def __init__(
        self,
        config: RunConfig,
        backbone: Backbone,
        data: GroupData,
        objective: Objective,
        sample_time: SampleTime,
        accelerator: Accelerator,
    ) -> None:
        self.data = data
        self._order = TrainingOrder(len(data), config.seed, data.latents.buckets, config.training.groups)
        self._sample_time = sample_time
        check_records(config, objective, data)
        super().__init__(config, backbone, objective, accelerator)
        self._bank = self._filled_bank() if config.training.reference_bank is not None else None
        if self._bank is not None:
            backbone.release("reference")

    @property
    def groups(self) -> int:
        return len(self.data)

    @property
    def content_hash(self) -> str:
        return self.data.content_hash

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
        refuse_invalid(batch)
        draw = self._draw(batch, [epoch for epoch, _ in places], positions).to(device)
        batch = batch.to(device)
        return batch, training_noise(self.config, self.backbone, self.accelerator, batch, draw)

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


def refuse_invalid(batch: GroupBatch) -> None:
    """What is not finite was left out when the data was read: here it would be trained on.

    Raises:
        DataError: names the records.
    """
    wrong = [name for name, fine in zip(batch.record_ids, batch.valid.all(1).tolist(), strict=True) if not fine]
    if wrong:
        shown = ", ".join(wrong[:8]) + (", ..." if len(wrong) > 8 else "")
        raise DataError(f"latents are not finite in records {shown}; leave these records out, or mend their pictures")
