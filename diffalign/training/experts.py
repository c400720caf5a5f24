"""Experts against the policy itself: member 0 of a group is a record's picture, member 1 is what the policy draws now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import GroupData, seeded
from diffalign.denoising import VP, DenoisingErrors, NoiseDraw, SampleTime, split_prediction
from diffalign.objectives import Objective, ObjectiveOutput
from diffalign.pipelines import ImageGenerator
from diffalign.samplers import Trajectory, rollout
from diffalign.training.micro_batch import MicroBatch
from diffalign.training.offline import OfflineTrainer, refuse_invalid
from diffalign.types import Condition, GroupBatch


class ExpertTrainer(OfflineTrainer):
    """Trains on records and, beside each, on a step of the sampling path of the policy for its prompt (Diffusion-DRO).

    The path's (x_t, prediction) becomes (x0, noise) by the inverse of process and prediction, in float32: a network that
    predicts the same there has no error. The expert is noised to the same time, with noise of its own. Every draw follows
    from the seed, the step and the record.
    """

    def __init__(
        self,
        config: RunConfig,
        backbone: Backbone,
        data: GroupData,
        objective: Objective,
        sample_time: SampleTime,
        accelerator: Accelerator,
        generator: ImageGenerator,
    ) -> None:
        assert config.online is not None
        self.online = config.online
        self._generator = generator
        super().__init__(config, backbone, data, objective, sample_time, accelerator)

    def _begin_step(self) -> dict[str, float]:
        online = self.online
        if "behaviour" in self.config.held_views and self.step % online.policy_sync_every == 0:
            self.backbone.snapshot("behaviour", online.policy_decay.at(self.step // online.policy_sync_every))
        return {}

    @property
    def _kept_views(self) -> tuple[str, ...]:
        return tuple(name for name in self.config.held_views if name == "behaviour" and self.step)

    def _backward(self, number: int, baseline: Tensor | None) -> tuple[dict[str, float], tuple[str, ...], list[str]]:
        places = [self._place(position) for position in self._positions(number)]
        batch = self.data.batch(places)
        refuse_invalid(batch)
        experts = _experts(batch).to(self.backbone.device)
        path = self._path(experts)
        sums: dict[str, float] = {}
        spoilt: list[str] = []
        for draw in range(self.online.draws):
            micro = self._paired(experts, path, number, draw)
            whole = self.config.training.sharding == "none"  # of pieces there is no gradient beside the backward's
            look = self._branch_norms if number == draw == 0 and self.online.branch_norms and whole else None
            metrics, bad = self._loss.backward(micro, lambda: self._dropout_draws(number), baseline, look)
            spoilt += bad
            for name, value in metrics.items():
                share = self.config.training.accumulation if name.endswith("_gradient_norm") else micro.share
                sums[name] = sums.get(name, 0.0) + value * share
        return sums, tuple(dict.fromkeys(spoilt)), list(experts.record_ids)

    def _path(self, experts: GroupBatch) -> Trajectory:
        """What the policy goes through for the prompts of the experts, one sample each, at times of its own."""
        names, device = experts.record_ids, self.backbone.device
        generators = [seeded(self.config.seed, self.step, name, "rollout") for name in names]
        shape = experts.x0.shape[2:]
        noise = torch.stack([torch.randn((1, *shape), generator=each) for each in generators]).to(device)
        times = self._times(generators).to(device)
        scale = self.backbone.process.sigma(times[0]).reshape(len(names), 1, *(1,) * len(shape))
        condition = experts.condition
        scale_of_guidance = self._generator.guidance_scale
        if self.backbone.embeds_guidance:
            told = torch.full((len(names),), float(scale_of_guidance), device=device)
            condition = replace(condition, leaves=condition.leaves | {"guidance": told})
        elif scale_of_guidance != 1.0:
            null = self.backbone.condition([""] * len(names)).null
            assert null is not None
            own = {name: condition.leaves[name] for name in condition.per_member}  # a picture's size, whatever it shows
            condition = replace(condition, null=null | own)
        with self.accelerator.autocast():
            return rollout(
                self._generator.denoiser(self.config.drawing_view),
                self._generator.sampler,
                condition,
                noise * scale,
                times,
                generators=generators,
                keep_predictions=True,
            )

    def _times(self, generators: Sequence[torch.Generator]) -> Tensor:
        """[states, groups, 1]: every time but the last is moved by one share of the way to the time before it."""
        times, process = self._generator.times.float().cpu(), self.backbone.process
        before = torch.cat([torch.ones(1), times[:-2]])
        share = torch.stack([torch.rand((), generator=each) for each in generators])
        moved = times[:-1, None] + share * (before - times[:-1])[:, None]
        if isinstance(process, VP):  # down to the network's own times, but never to that of the next step
            entries = process.entries
            moved = torch.maximum((moved * entries + 1e-3).floor() / entries, times[:-1, None])
        return torch.cat([moved, times[-1:, None].expand(1, len(generators))])[..., None]

    def _paired(self, experts: GroupBatch, path: Trajectory, number: int, draw: int) -> MicroBatch:
        generators = [seeded(self.config.seed, self.step, name, f"noise {draw}") for name in experts.record_ids]
        chosen = torch.stack([torch.randint(path.steps, (), generator=each) for each in generators])
        every = torch.arange(len(chosen))
        chosen, every = chosen.to(path.states.device), every.to(path.states.device)
        assert path.prediction is not None
        x_t, output, t = (part[chosen, every] for part in (path.states, path.prediction, path.times))
        x0, noise = split_prediction(self.backbone.process, self.backbone.prediction, output[:, 0], x_t[:, 0], t[:, 0])
        fresh = torch.stack([torch.randn(x0.shape[1:], generator=each) for each in generators]).to(x0.device)
        training = self.config.training
        return MicroBatch(
            replace(
                experts,
                x0=torch.stack([experts.x0[:, 0].to(x0.dtype), x0], 1),
                condition=_for_both(experts.condition),
                valid=experts.valid.expand(-1, 2),
                mask=None if experts.mask is None else _with_whole(experts.mask),
            ),
            NoiseDraw(t.expand(-1, 2), torch.stack([fresh, noise], 1)),
            None,
            last=number == training.accumulation - 1 and draw == self.online.draws - 1,
            progress=self.step / training.steps,
            share=1 / self.online.draws,
        )

    def _branch_norms(self, errors: DenoisingErrors, output: ObjectiveOutput) -> dict[str, float]:
        """L2 norms of the two gradients that make a step: of the experts' errors, and of the policy's own samples'.

        Of the first forward of this process. While the policy that draws is the one that is trained, the second is 0.
        """
        (slope,) = torch.autograd.grad(output.loss.mean(), errors.policy, retain_graph=True)
        norms = {}
        for member, name in enumerate(("expert", "own")):
            part: Any = (errors.policy[:, member] * slope[:, member]).sum()
            grads = torch.autograd.grad(part, self._parameters, retain_graph=True, allow_unused=True)
            norms[f"{name}_gradient_norm"] = (
                sum(float(each.square().sum()) for each in grads if each is not None) ** 0.5
            )
        return norms


def _experts(batch: GroupBatch) -> GroupBatch:
    """Member 0 of each group, the best one, alone."""
    return replace(
        batch,
        x0=batch.x0[:, :1],
        condition=Condition(
            {
                name: leaf[:, :1] if name in batch.condition.per_member else leaf
                for name, leaf in batch.condition.leaves.items()
            },
            per_member=batch.condition.per_member,
        ),
        valid=batch.valid[:, :1],
        mask=None if batch.mask is None else batch.mask[:, :1],
        reward=None,
        label=None,
        preference=None,
    )


def _for_both(condition: Condition) -> Condition:
    leaves = {
        name: leaf.expand(-1, 2, *leaf.shape[2:]) if name in condition.per_member else leaf
        for name, leaf in condition.leaves.items()
    }
    return replace(condition, leaves=leaves)


def _with_whole(mask: Tensor) -> Tensor:
    return torch.cat([mask, torch.ones_like(mask)], 1)
