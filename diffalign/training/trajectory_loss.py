"""The loss of sampling steps that were taken: one step's forward and backward at a time, so memory is that of one step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.objectives import Objective, ObjectiveOutput
from diffalign.objectives.divergence import gaussian_divergence
from diffalign.pipelines import ImageGenerator
from diffalign.samplers import FlowSDE, Sampler, StepScores, Trajectory, Windowed, step_log_prob


@dataclass(frozen=True)
class TrajectoryBatch:
    """The groups of one forward of one process, on the device of the network.

    Attributes:
        trajectory: with its condition.
        steps: which steps of each group are trained on [k, groups].
        advantage: of each member [groups, members], or None.
        weight: what each group's loss is multiplied by [groups]; None: 1.
        last: whether the optimizer steps after it.
    """

    trajectory: Trajectory
    steps: Tensor
    advantage: Tensor | None
    weight: Tensor | None
    last: bool


class TrajectoryLoss:
    """The loss of a batch of trajectories and its gradient."""

    def __init__(
        self,
        config: RunConfig,
        backbone: Backbone,
        objective: Objective,
        accelerator: Accelerator,
        synced: Callable[[bool], AbstractContextManager[None]],
    ) -> None:
        self._config = config
        self._backbone = backbone
        self._objective = objective
        self._accelerator = accelerator
        self._synced = synced
        self._settings = config.objective.model_dump(exclude={"name"})
        self._wanted = set(config.objective.inputs())
        self._reference = "reference"

    def compare_with(self, view: str) -> None:
        """From now on the reference is another view."""
        self._reference = view

    def backward(self, batch: TrajectoryBatch, drawing: ImageGenerator) -> tuple[dict[str, float], list[bool]]:
        """Forward and backward of every step in turn; the means of the figures, and which groups' losses are finite.

        `drawing` is what the trajectories were drawn with.
        """
        sums: dict[str, float] = {}
        fine = [True] * batch.trajectory.groups
        count = len(batch.steps)
        in_two = self._config.training.max_batch is not None
        for number, chosen in enumerate(batch.steps):
            last = batch.last and number == count - 1
            run = self._in_two_passes if in_two else self._in_one_pass
            loss, output = run(batch, chosen, drawing, last)
            fine = [each and bool(ok) for each, ok in zip(fine, output.loss.isfinite().tolist(), strict=True)]
            figures = {"loss": loss * count * self._config.training.accumulation, **output.metrics}
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value.item() / count
        return sums, fine

    def _in_one_pass(
        self, batch: TrajectoryBatch, chosen: Tensor, drawing: ImageGenerator, last: bool
    ) -> tuple[Tensor, ObjectiveOutput]:
        with self._synced(last):
            with self._accelerator.autocast():
                scores = self._scores("policy", batch.trajectory, chosen, drawing)
            loss, output = self._loss(batch, chosen, scores, drawing)
            self._accelerator.backward(loss)
        return loss.detach(), output

    def _in_two_passes(
        self, batch: TrajectoryBatch, chosen: Tensor, drawing: ImageGenerator, last: bool
    ) -> tuple[Tensor, ObjectiveOutput]:
        """Scores without gradient; the loss's gradient by them; then `max_batch` samples at a time: memory of so many."""
        size = self._config.training.max_batch
        assert size is not None
        with torch.no_grad(), self._accelerator.autocast():
            scores = self._scores("policy", batch.trajectory, chosen, drawing)
        leaves = [scores.log_prob.requires_grad_(), scores.mean.requires_grad_()]
        loss, output = self._loss(batch, chosen, scores, drawing)
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        rows, steps = _one_each(batch.trajectory), chosen.repeat_interleave(batch.trajectory.members)
        for start in range(0, rows.groups, size):
            part = slice(start, start + size)
            with self._synced(last and start + size >= rows.groups):
                with self._accelerator.autocast():
                    some = self._scores("policy", rows[part], steps[part], drawing)
                pairs = zip((some.log_prob, some.mean), slopes, strict=True)
                parts = [
                    (value * slope.flatten(1, 2)[:, part, None]).sum() for value, slope in pairs if slope is not None
                ]
                self._accelerator.backward(torch.stack(parts).sum())
        return loss.detach(), output

    def _loss(
        self, batch: TrajectoryBatch, chosen: Tensor, scores: StepScores, drawing: ImageGenerator
    ) -> tuple[Tensor, ObjectiveOutput]:
        """This step's part in the mean over the groups and steps of the optimizer step."""
        inputs = self._inputs(batch, chosen, scores, drawing)
        output = self._objective.function(scores.log_prob, **inputs, **self._settings)
        weighted = output.loss if batch.weight is None else output.loss * batch.weight
        return weighted.mean() / (len(batch.steps) * self._config.training.accumulation), output

    def _scores(self, view: str, trajectory: Trajectory, chosen: Tensor, drawing: ImageGenerator) -> StepScores:
        return step_log_prob(drawing.denoiser(view), drawing.sampler, trajectory, chosen[None])

    def _inputs(
        self, batch: TrajectoryBatch, chosen: Tensor, scores: StepScores, drawing: ImageGenerator
    ) -> dict[str, Tensor]:
        """All with the one step in front: [1, groups, members]."""
        trajectory, wanted = batch.trajectory, self._wanted
        every = torch.arange(trajectory.groups, device=chosen.device)
        found: dict[str, Tensor | None] = {
            "behaviour_log_prob": trajectory.log_prob[chosen, every][None],
            "advantage": batch.advantage,
            "preference": torch.ones(trajectory.groups, device=chosen.device),  # the winner stands first
            "std": scores.std,
        }
        if "behaviour_divergence" in wanted:
            mean = trajectory.mean[chosen, every][None]
            found["behaviour_divergence"] = gaussian_divergence(scores.mean, other_mean=mean, std=scores.std)
        if wanted & {"reference_log_prob", "divergence"}:
            with torch.no_grad(), self._accelerator.autocast():
                reference = self._scores(self._reference, trajectory, chosen, drawing)
            found["reference_log_prob"] = reference.log_prob
            if "divergence" in wanted:
                std = _divergence_std(drawing.sampler, trajectory.times, chosen, scores.std)
                found["divergence"] = gaussian_divergence(scores.mean, other_mean=reference.mean, std=std)
        return {name: value for name, value in found.items() if name in wanted and value is not None}


def _divergence_std(sampler: Sampler, times: Tensor, chosen: Tensor, std: Tensor) -> Tensor:
    """What the divergence from the reference is divided by: s_t where std is s_t sqrt(-dt), as in flow_grpo's code."""
    inside = sampler.inside if isinstance(sampler, Windowed) else sampler
    if not isinstance(inside, FlowSDE) or inside.form == "cps":
        return std
    elapsed = times[chosen] - times[chosen + 1]  # [groups]
    return std / elapsed.sqrt()[None, :, None].to(std.device)


def _one_each(trajectory: Trajectory) -> Trajectory:
    """Every sample as a group of its own."""

    def apart(part: Tensor) -> Tensor:
        return part.flatten(1, 2)[:, :, None]

    times = trajectory.times
    return replace(
        trajectory,
        states=apart(trajectory.states),
        mean=apart(trajectory.mean),
        std=apart(trajectory.std),
        log_prob=apart(trajectory.log_prob),
        times=times if times.ndim == 1 else apart(times),
        condition=trajectory.condition.expand(trajectory.members),
        x0_hat=trajectory.x0_hat.flatten(0, 1)[:, None],
        prediction=None,
    )
