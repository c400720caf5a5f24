"""A round of an online run: what the policy drew for some prompts, and in which steps it is trained on.

The prompts of a round stand in one order over all processes. `training.groups` of them are a chunk: the groups of one
forward of one process, drawn together too, so that a step is scored again at the shape that it was taken in. The chunks of
one optimizer step are a slot. The first pass takes the new round's slots in order; later passes take as many, drawn
from all slots of the rounds that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.data import seeded
from diffalign.exceptions import CheckpointError
from diffalign.samplers import Trajectory
from diffalign.training.lessons import Lesson
from diffalign.types import Condition

_TRAJECTORY = ("states", "mean", "std", "log_prob", "x0_hat")  # the times follow from the sampler


@dataclass(frozen=True)
class Chunk:
    """What was drawn for the groups of one forward, on the CPU.

    Attributes:
        number: of the chunk in its round, over all processes.
        names: one per group; no two draws of a run have one name.
        prompts: one per group.
        x0: [groups, members, *sample].
        rewards: [rewards, groups, members].
        pictures: [groups, members, 3, height, width], for people who judge them; let go of then.
        features: what a reward of sets sees [groups, members, features], or None.
        trajectory: of methods that learn from the steps of sampling, without its condition; else None.
    """

    number: int
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    x0: Tensor
    rewards: Tensor
    trajectory: Trajectory | None = None
    features: Tensor | None = None
    pictures: Tensor | None = None


@dataclass(frozen=True)
class Round:
    """This process's chunks of a round by number, and what the whole round teaches."""

    number: int
    chunks: dict[int, Chunk]
    lesson: Lesson


@dataclass(frozen=True)
class Plan:
    """Where everything of a round stands: arithmetic alone."""

    prompts: int
    groups: int
    accumulation: int
    processes: int
    rank: int
    passes: int

    @classmethod
    def of(cls, config: RunConfig, rank: int) -> Plan:
        online, training = config.online, config.training
        assert online is not None
        return cls(
            config.prompts_per_round, training.groups, training.accumulation, training.processes, rank, online.passes
        )

    @property
    def slots(self) -> int:
        return self.prompts // (self.groups * self.accumulation * self.processes)

    @property
    def steps(self) -> int:
        """Optimizer steps from one drawing to the next."""
        return self.slots * self.passes

    @property
    def mine(self) -> Iterator[int]:
        """The numbers of this process's chunks."""
        return iter(range(self.rank, self.prompts // self.groups, self.processes))

    def places(self, chunk: int) -> range:
        """Where the groups of a chunk stand in the round."""
        return range(chunk * self.groups, (chunk + 1) * self.groups)

    def chunk(self, slot: int, number: int) -> int:
        """The chunk of forward `number` of this process in a step."""
        return (slot * self.accumulation + number) * self.processes + self.rank

    def slot(self, step: int, rounds: int, seed: int, current: int) -> tuple[int, int]:
        """(which of the kept rounds, counted back from the newest, slot) that a step of the current round trains on."""
        turn, within = divmod(step, self.slots)
        if turn == 0:
            return 0, within
        generator = seeded(seed, current, str(turn), "replay")
        drawn = torch.randperm(rounds * self.slots, generator=generator)[: self.slots]
        back, slot = divmod(int(drawn[within]), self.slots)
        return back, slot


# ------------------------------------------------------------ in a checkpoint


def to_tensors(rounds: Mapping[int, Mapping[int, Chunk]]) -> dict[str, Tensor]:
    """The chunks of this process, by round, as named tensors; names and prompts follow from the round."""
    found = {}
    for number, chunks in rounds.items():
        for chunk in chunks.values():
            place = f"{number}.{chunk.number}"
            found[f"{place}.rewards"] = chunk.rewards
            if chunk.features is not None:
                found[f"{place}.features"] = chunk.features
            if chunk.trajectory is None:
                found[f"{place}.x0"] = chunk.x0
            else:  # whose last states they are
                parts = {name: getattr(chunk.trajectory, name) for name in _TRAJECTORY}
                found |= {f"{place}.{name}": part for name, part in parts.items()}
    return found


def from_tensors(tensors: Mapping[str, Tensor], number: int, plan: Plan) -> dict[int, dict[str, Tensor]]:
    """The tensors of every chunk of round `number`, of all processes; cut anew where `plan` has other chunks.

    Raises:
        CheckpointError: some are missing.
    """
    chunks: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        home, chunk, name = key.split(".")
        if int(home) == number:
            chunks.setdefault(int(chunk), {})[name] = tensor
    ordered = [chunks[each] for each in sorted(chunks)]
    if sum(parts["rewards"].shape[1] for parts in ordered) != plan.prompts:
        raise CheckpointError(f"the checkpoint does not hold all of round {number}; start the run again")
    if ordered[0]["rewards"].shape[1] == plan.groups:
        return dict(enumerate(ordered))
    whole = {name: torch.cat([each[name] for each in ordered], _group_axis(name)) for name in ordered[0]}
    return {
        chunk: {
            name: tensor.narrow(_group_axis(name), chunk * plan.groups, plan.groups) for name, tensor in whole.items()
        }
        for chunk in range(plan.prompts // plan.groups)
    }


def _group_axis(name: str) -> int:
    return 0 if name in ("x0", "x0_hat", "features") else 1


def chunk_of(
    number: int, names: tuple[str, ...], prompts: tuple[str, ...], parts: Mapping[str, Tensor], times: Tensor
) -> Chunk:
    """A chunk from its tensors, and the times that its trajectories went through."""
    trajectory = None
    if "states" in parts:
        stochastic = (parts["std"] > 0).flatten(1).all(1)
        kept = {name: parts[name] for name in _TRAJECTORY}
        trajectory = Trajectory(**kept, times=times, stochastic=stochastic, condition=Condition({}))
    x0 = parts["x0"] if trajectory is None else trajectory.x0
    return Chunk(number, names, prompts, x0, parts["rewards"], trajectory, parts.get("features"))


def stored(trajectory: Trajectory) -> Trajectory:
    """On the CPU, without the condition, which follows from the prompts."""
    return replace(trajectory, condition=Condition({})).to("cpu")
