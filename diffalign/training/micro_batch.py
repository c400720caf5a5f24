"""One micro-batch: errors from the primitive, the objective's loss, backward; in one pass or in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.denoising import Denoiser, DenoisingErrors, NoiseDraw, Prediction, denoising_errors
from diffalign.objectives import Objective, ObjectiveOutput
from diffalign.training.objective_inputs import labels_of, objective_inputs, pair_weight
from diffalign.training.sharding import gradient_sync
from diffalign.training.step_metrics import error_figures, half_sums, reward_sums
from diffalign.types import GroupBatch

Look = Callable[[DenoisingErrors, ObjectiveOutput], dict[str, float]]


@dataclass(frozen=True)
class MicroBatch:
    """The groups of one forward of one process, on the device of the network.

    Attributes:
        batch: the groups.
        draw: their times and noise.
        reference: their reference errors [groups, members] where a bank has them, or None.
        last: whether the optimizer steps after it.
        progress: share of the training steps done, in [0, 1).
        advantage: of each member [groups, members], where an online loop has worked it out.
        weight: what each group's loss is multiplied by [groups]; None: 1. A group that says nothing has 0, the others more.
        share: of the forwards that make one mean: 1 / n where a group is trained on at n draws.
        told: where the batch's rewards are real, not zeros for missing ones [groups, members]; None: all.
    """

    batch: GroupBatch
    draw: NoiseDraw
    reference: Tensor | None
    last: bool
    progress: float
    advantage: Tensor | None = None
    weight: Tensor | None = None
    share: float = 1.0
    told: Tensor | None = None


class GroupLoss:
    """The loss of a micro-batch and its gradient."""

    def __init__(self, config: RunConfig, backbone: Backbone, objective: Objective, accelerator: Accelerator) -> None:
        self._config = config
        self._backbone = backbone
        self._objective = objective
        self._accelerator = accelerator
        self._hyperparameters = config.objective.model_dump(exclude={"name"})
        measure = config.training.measure or objective.measure
        self._measure = None if measure is None else Prediction(measure)
        self._policy = backbone.view("policy")
        has_bank = config.training.reference_bank is not None
        compares = config.objective.compares_with_reference
        self._reference = backbone.view("reference") if compares and not has_bank else None
        kept = {
            "behaviour": config.objective.compares_with_behaviour,
            "average": config.objective.compares_with_average,
        }
        self._others = [name for name, is_kept in kept.items() if is_kept]
        taken = {objective.params.first, *config.objective.inputs()}
        self._learns_from_residuals = bool(taken & {"policy_residual", "divergence", "ema_divergence"})
        self._residuals = self._reference is not None or self._learns_from_residuals

    def compare_with(self, view: str) -> None:
        """From now on the reference is another view."""
        if self._reference is not None:
            self._reference = self._backbone.view(view)

    def reference_errors(self, batch: GroupBatch, draw: NoiseDraw) -> Tensor:
        """Of the frozen model alone [groups, members], without gradient."""
        with torch.no_grad(), self._accelerator.autocast():
            return self._errors(self._backbone.view("reference"), None, batch, draw, residuals=False).policy

    def errors(self, micro: MicroBatch, *, residuals: bool = False) -> DenoisingErrors:
        """Of policy and reference without gradient: what batch-wide statistics are made of."""
        with torch.no_grad(), self._accelerator.autocast():
            return self._compared(micro, residuals=residuals)

    def backward(
        self,
        micro: MicroBatch,
        dropout: Callable[[], AbstractContextManager[None]],
        baseline: Tensor | None,
        look: Look | None = None,
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Forward and backward; the means of the figures over the groups, and the records whose loss is not finite.

        `look` gives further figures, from errors and loss before the backward (in one pass).
        """
        seen: dict[str, float] = {}
        if self._config.training.two_pass:
            errors, output = self._in_two_passes(micro, baseline)
        else:
            errors, output, seen = self._in_one_pass(micro, dropout, baseline, look)
        metrics = {
            **seen,
            "loss": _weighted(output.loss, micro).mean().item(),
            **{name: value.item() for name, value in output.metrics.items()},
            **error_figures(errors, micro.batch, micro.weight),
            **(half_sums(errors, micro.batch, micro.weight) if "good_error" in output.metrics else {}),
            **reward_sums(micro.batch, micro.told),
        }
        fine = output.loss.isfinite().tolist()
        return metrics, tuple(name for name, each in zip(micro.batch.record_ids, fine, strict=True) if not each)

    def _in_one_pass(
        self,
        micro: MicroBatch,
        dropout: Callable[[], AbstractContextManager[None]],
        baseline: Tensor | None,
        look: Look | None,
    ) -> tuple[DenoisingErrors, ObjectiveOutput, dict[str, float]]:
        # DDP takes the mean over processes at the last backward only: it decides in the forward pass whether the
        # backward will, so both stand inside
        with self.synced(micro.last):
            with dropout(), self._accelerator.autocast():
                errors = self._compared(micro, residuals=self._residuals)
            output = self._loss(errors, micro, baseline)
            seen = {} if look is None else look(errors, output)
            self._accelerator.backward(self._mean(output.loss, micro))
        return errors, output, seen

    def _in_two_passes(self, micro: MicroBatch, baseline: Tensor | None) -> tuple[DenoisingErrors, ObjectiveOutput]:
        """Errors and residuals without gradient, the loss's slope by each, then sample by sample the sum of slope x value.

        The peak of memory is that of one chunk.
        """
        errors = self.errors(micro, residuals=self._residuals)
        policy, kept = errors.policy.detach().requires_grad_(), dict(errors.residuals or {})
        leaves = [policy]
        if self._learns_from_residuals:
            kept["policy"] = kept["policy"].detach().requires_grad_()
            leaves.append(kept["policy"])
        errors = DenoisingErrors(policy, errors.reference, errors.t, errors.others, kept or None)
        output = self._loss(errors, micro, baseline)
        slopes = torch.autograd.grad(self._mean(output.loss, micro), leaves, allow_unused=True)
        flat = [None if slope is None else slope.flatten(0, 1) for slope in slopes]
        size, count = self._config.training.max_batch or 1, policy.numel()
        for start, batch, draw in _chunks(micro, size):
            with self.synced(micro.last and start + size >= count):
                with self._accelerator.autocast():
                    chunk = self._errors(self._policy, None, batch, draw, residuals=self._learns_from_residuals)
                values = (chunk.policy, *([] if chunk.residuals is None else [chunk.residuals["policy"]]))
                part = slice(start, start + size)
                sums = [
                    (value.flatten(0, 1) * slope[part]).sum()
                    for value, slope in zip(values, flat, strict=True)
                    if slope is not None
                ]
                self._accelerator.backward(torch.stack(sums).sum())
        return errors, output

    def _mean(self, loss: Tensor, micro: MicroBatch) -> Tensor:
        """This forward's part in the mean over the groups of the step."""
        return _weighted(loss, micro).mean() * (micro.share / self._config.training.accumulation)

    def _loss(self, errors: DenoisingErrors, micro: MicroBatch, baseline: Tensor | None) -> ObjectiveOutput:
        if baseline is None and "baseline" in self._config.objective.inputs():
            baseline = self._baseline_of([(errors, labels_of(micro.batch))])
        first, inputs = objective_inputs(self._config, self._objective, errors, micro.batch, baseline, micro.advantage)
        output = self._objective.function(first, **inputs, **self._hyperparameters)
        weight = pair_weight(self._config.training.pair_weight, micro.batch, micro.progress)
        if weight is not None:
            output = ObjectiveOutput(output.loss * weight, output.metrics | {"pair_weight": weight.mean()})
        return output

    def _compared(self, micro: MicroBatch, *, residuals: bool) -> DenoisingErrors:
        """Of the policy and all that it is compared with."""
        others = {name: self._backbone.view(name) for name in self._others}
        errors = self._errors(
            self._policy, self._reference, micro.batch, micro.draw, residuals=residuals, others=others
        )
        return _with_bank(errors, micro)

    def _errors(
        self,
        policy: Denoiser,
        reference: Denoiser | None,
        batch: GroupBatch,
        draw: NoiseDraw,
        *,
        residuals: bool,
        others: Mapping[str, Denoiser] | None = None,
    ) -> DenoisingErrors:
        return denoising_errors(
            policy,
            reference,
            batch.x0,
            batch.condition,
            draw,
            others=others,
            measure=self._measure,
            mask=batch.mask,
            residuals=residuals,
            max_batch=self._config.training.max_batch,
        )

    def synced(self, last: bool) -> AbstractContextManager[None]:
        """Inside, a backward pass takes the mean over processes where it is the last of the step."""
        # gradients of a whole network stay in pieces: no process has the memory for all of them
        in_pieces = self._config.model.train == "full"
        return gradient_sync(self._accelerator, self._backbone.wrapped, now=last, in_pieces=in_pieces)

    # ------------------------------------------------------------ statistics of the whole batch

    def baseline(self, micros: Iterator[MicroBatch]) -> Tensor:
        """What the objective compares with (Diffusion-KTO's usual gain), over all micro-batches and processes."""
        return self._baseline_of([(self.errors(micro), labels_of(micro.batch)) for micro in micros])

    def _baseline_of(self, seen: list[tuple[DenoisingErrors, Tensor]]) -> Tensor:
        assert self._objective.baseline is not None
        gather = self._accelerator.gather
        policy, reference, label = (
            gather(torch.cat(parts).detach())
            for parts in zip(*((errors.policy, errors.reference, label) for errors, label in seen), strict=True)
        )
        return self._objective.baseline(policy, reference, label, self._hyperparameters)


def _weighted(loss: Tensor, micro: MicroBatch) -> Tensor:
    return loss if micro.weight is None else loss * micro.weight


def _with_bank(errors: DenoisingErrors, micro: MicroBatch) -> DenoisingErrors:
    if micro.reference is None:
        return errors
    return DenoisingErrors(errors.policy, micro.reference, errors.t, errors.others, errors.residuals)


def _chunks(micro: MicroBatch, size: int) -> Iterator[tuple[int, GroupBatch, NoiseDraw]]:
    """The samples of a micro-batch as groups of one, `size` at a time."""
    batch, draw = micro.batch, micro.draw
    rows = batch.condition.expand(batch.members)
    x0, valid, t, noise = (value.flatten(0, 1)[:, None] for value in (batch.x0, batch.valid, draw.t, draw.noise))
    told = None if draw.network_time is None else draw.network_time.flatten(0, 1)[:, None]
    mask = None if batch.mask is None else batch.mask.expand(batch.x0.shape).flatten(0, 1)[:, None]
    for start in range(0, len(x0), size):
        part = slice(start, start + size)
        yield (
            start,
            GroupBatch(x0[part], rows[part], valid[part], (), mask=None if mask is None else mask[part]),
            NoiseDraw(t[part], noise[part], None if told is None else told[part]),
        )
