"""Trajectories: what a sampler went through, and its steps scored again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffalign.types import Condition

_BY_GROUP = ("states", "mean", "std", "log_prob")  # dimension 1 is the groups'


@dataclass(frozen=True)
class Trajectory:
    """What a sampler went through, from noise to data, for groups of members that share a condition.

    Attributes:
        states: x_t at every time, in the dtype that steps are scored in (at least float32).
        times: process times, descending, one more than there are steps: one list for all, or one per member.
        mean: of each step's density, before its noise.
        std: of each step; 0 where it is deterministic.
        log_prob: log-density of each step that was taken, under the policy that took it; NaN where it is deterministic.
        stochastic: which steps add noise to every member, and so can be scored.
        condition: leaves [groups, ...].
        x0_hat: the clean sample as the last step saw it: what DanceGRPO scores, free of that step's noise.
        prediction: the network's raw output at each step, or None where it was not kept.
    """

    states: Float[Tensor, "states groups members *sample"]
    times: Float[Tensor, " states"] | Float[Tensor, "states groups members"]
    mean: Float[Tensor, "steps groups members *sample"]
    std: Float[Tensor, "steps groups members"]
    log_prob: Float[Tensor, "steps groups members"]
    stochastic: Bool[Tensor, " steps"]
    condition: Condition
    x0_hat: Float[Tensor, "groups members *sample"]
    prediction: Float[Tensor, "steps groups members *sample"] | None = None

    @property
    def steps(self) -> int:
        return len(self.mean)

    @property
    def groups(self) -> int:
        return self.states.shape[1]

    @property
    def members(self) -> int:
        return self.states.shape[2]

    @property
    def x0(self) -> Float[Tensor, "groups members *sample"]:
        """The samples that came out."""
        return self.states[-1]

    def to(self, device: torch.device | str) -> Trajectory:
        moved = {name: getattr(self, name).to(device) for name in (*_BY_GROUP, "times", "stochastic", "x0_hat")}
        kept = self.prediction
        return replace(
            self,
            **moved,
            condition=self.condition.to(device),
            prediction=None if kept is None else kept.to(device),
        )

    def __getitem__(self, groups: slice | Tensor) -> Trajectory:
        """Some of the groups."""
        kept = self.prediction
        return replace(
            self,
            **{name: getattr(self, name)[:, groups] for name in _BY_GROUP},
            times=self.times if self.times.ndim == 1 else self.times[:, groups],
            condition=self.condition[groups],
            x0_hat=self.x0_hat[groups],
            prediction=None if kept is None else kept[:, groups],
        )

    def of_members(self, order: Int[Tensor, "groups chosen"]) -> Trajectory:
        """Some members of each group, in this order."""
        every = torch.arange(self.groups)[:, None]
        kept = self.prediction
        return replace(
            self,
            **{name: getattr(self, name)[:, every, order] for name in _BY_GROUP},
            times=self.times if self.times.ndim == 1 else self.times[:, every, order],
            x0_hat=self.x0_hat[every, order],
            prediction=None if kept is None else kept[:, every, order],
        )


@dataclass(frozen=True)
class StepScores:
    """Steps of a trajectory, scored by a network; all carry its gradient.

    Attributes:
        log_prob: of the states that the trajectory reached.
        mean, std: of the density.
        x0: the clean samples that the outputs mean.
        prediction: the network's raw outputs.
    """

    log_prob: Float[Tensor, "k groups members"]
    mean: Float[Tensor, "k groups members *sample"]
    std: Float[Tensor, "k groups members"]
    x0: Float[Tensor, "k groups members *sample"]
    prediction: Float[Tensor, "k groups members *sample"]
