"""The two containers that every room passes around: what a sample is conditioned on, and one batch of groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What the network is told besides x_t and t, as named tensors.

    Attributes:
        leaves: name -> tensor [groups, ...].
        null: the same leaves for the empty prompt (classifier-free guidance), or None.
        per_member: names of leaves shaped [groups, members, ...] instead (for example SDXL time ids).
    """

    leaves: dict[str, Tensor]
    null: dict[str, Tensor] | None = None
    per_member: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """Rows; 0 where there is nothing to be told (an unconditional model)."""
        return len(next(iter(self.leaves.values()), ()))

    def expand(self, members: int) -> Condition:
        """One row per sample: groups are repeated member by member (g0 g0 g1 g1), never tiled (g0 g1 g0 g1)."""

        def rows(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: leaf.flatten(0, 1) if name in self.per_member else leaf.repeat_interleave(members, dim=0)
                for name, leaf in leaves.items()
            }

        return Condition(rows(self.leaves), None if self.null is None else rows(self.null))

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """Apply `function` to every leaf, the empty prompt's too."""
        null = None if self.null is None else {name: function(leaf) for name, leaf in self.null.items()}
        return Condition({name: function(leaf) for name, leaf in self.leaves.items()}, null, self.per_member)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        return self.map(lambda leaf: leaf[rows])

    def to(self, device: torch.device | str) -> Condition:
        return self.map(lambda leaf: leaf.to(device))

    def join(self, other: Condition) -> Condition:
        """The rows of both, one after the other; the empty prompt's leaves are dropped.

        Raises:
            ValueError: one has leaves that the other lacks.
        """
        if unlike := sorted(set(self.leaves) ^ set(other.leaves)):
            raise ValueError(f"only one of two conditions has {', '.join(unlike)}; give it to both")
        leaves = {name: torch.cat([leaf, other.leaves[name]]) for name, leaf in self.leaves.items()}
        return Condition(leaves, None, self.per_member)

    def unconditional(self) -> Condition:
        """The condition of the empty prompt, row by row."""
        if self.null is None:
            raise ValueError("this condition has no empty-prompt leaves; build it with them for guidance")
        return Condition(self.null, self.null, self.per_member)


@dataclass(frozen=True)
class GroupBatch:
    """A batch of groups; the members of a group share its condition and compete.

    Attributes:
        x0: clean samples or latents [groups, members, *sample].
        condition: leaves [groups, ...].
        valid: which members count [groups, members].
        reward: higher is better [groups, members], or None.
        label: +1 good, -1 bad [groups, members], or None.
        preference: probability that member 0 wins [groups], in [0, 1], or None.
        mask: which elements of a sample count [groups, members, *sample] (broadcastable), or None.
        record_ids: one id per group.
        metadata: anything else, one entry per group.
    """

    x0: Float[Tensor, "groups members *sample"]
    condition: Condition
    valid: Bool[Tensor, "groups members"]
    record_ids: tuple[str, ...]
    reward: Float[Tensor, "groups members"] | None = None
    label: Float[Tensor, "groups members"] | None = None
    preference: Float[Tensor, " groups"] | None = None
    mask: Tensor | None = None
    metadata: tuple[dict[str, Any], ...] = field(default=())

    @property
    def groups(self) -> int:
        return self.x0.shape[0]

    @property
    def members(self) -> int:
        return self.x0.shape[1]

    def to(self, device: torch.device | str) -> GroupBatch:
        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return GroupBatch(
            x0=self.x0.to(device),
            condition=self.condition.to(device),
            valid=self.valid.to(device),
            record_ids=self.record_ids,
            reward=move(self.reward),
            label=move(self.label),
            preference=move(self.preference),
            mask=move(self.mask),
            metadata=self.metadata,
        )
