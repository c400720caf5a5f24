"""Groups ready for training, wherever their latents come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from diffalign.data.order import seeded
from diffalign.data.readers import ReadCounts
from diffalign.data.said import Said
from diffalign.data.texts import Texts
from diffalign.exceptions import DataError
from diffalign.types import Condition, GroupBatch


@runtime_checkable
class Latents(Protocol):
    """Where the latents of every group come from."""

    @property
    def content_hash(self) -> str:
        """Changes with what any group holds."""

    @property
    def buckets(self) -> np.ndarray | None:
        """Which records have pictures of one size [records]: a batch holds those of one bucket. None: all are of one."""

    def of(self, number: int, epoch: int, name: str) -> Tensor:
        """x0 [members, *sample] of the group at place `number` of the records, whose id is `name`, as `epoch` sees it."""

    def crops(self, number: int, epoch: int, name: str) -> Tensor | None:
        """How the pictures behind `of` were cropped [members, 6], in the order of `OpenedPicture.crop`.

        None where nobody knows, then of every group.
        """

    def masks(self, number: int, epoch: int, name: str) -> Tensor | None:
        """Which latents hold picture and no padding [members, 1, *space].

        None where there is no padding, then of every group.
        """

    def reward(self, number: int) -> Tensor | None:
        """The reward of each member [members]; None where the members are only ranked, then of every group."""

    def preference(self, number: int) -> float:
        """Probability that member 0 is preferred, in [0, 1]."""

    def label(self, number: int) -> int | None:
        """+1 good, -1 bad, of all members; None where the records carry no labels, then of every group."""

    def said(self) -> Iterator[Said]:
        """The rewards, labels and preferences of all groups, some thousand at a time."""


@dataclass(frozen=True)
class GroupData:
    """All groups of a data set.

    Attributes:
        records: id and prompt of every group, in file order.
        latents: gives the latents [members, *sample] of a group, for one epoch, and its rewards or preference.
        texts: gives the text leaves of a prompt.
        members: how many of a group's members each epoch sees, drawn anew, in the group's order; None: all.
        empty_prompt_share: chance that a group is shown with the empty prompt.
        seed: of every draw made here.
        counts: what the reader left out.
        crop_leaf: name of the condition's leaf [groups, members, 6] that tells the network each picture's crop; None:
            the network is not told.
    """

    records: Sequence[tuple[str, str]]
    latents: Latents
    texts: Texts
    members: int | None = None
    empty_prompt_share: float = 0.0
    seed: int = 0
    counts: ReadCounts | None = None
    crop_leaf: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def content_hash(self) -> str:
        """Changes with anything that a record says, with the records' order, and with how many members are drawn."""
        digest = hashlib.sha256(f"{self.latents.content_hash} {self.members}".encode())
        for record in self.records:
            digest.update(repr(record).encode())
        return digest.hexdigest()[:40]

    def batch(self, places: Sequence[tuple[int, int]]) -> GroupBatch:
        """The groups at (epoch, record number) as one batch.

        Raises:
            DataError: a group has fewer members than are to be drawn; names it.
        """
        ids, prompts, latents, rewards, crops, masks = [], [], [], [], [], []
        for epoch, number in places:
            name, prompt = self.records[number]
            if self.empty_prompt_share:
                drawn = torch.rand((), generator=seeded(self.seed, epoch, name, "empty prompt"))
                prompt = "" if drawn < self.empty_prompt_share else prompt
            ids.append(name)
            prompts.append(prompt)
            x0, reward = self.latents.of(number, epoch, name), self.latents.reward(number)
            kept = self._members_of(len(x0), reward, epoch, name)
            x0, reward = x0[kept], None if reward is None else reward[kept]
            latents.append(x0)
            rewards.append(reward)
            crop = None if self.crop_leaf is None else self.latents.crops(number, epoch, name)
            if crop is not None:
                crops.append(crop[kept])
            mask = self.latents.masks(number, epoch, name)
            if mask is not None:
                masks.append(mask[kept])
        x0 = torch.stack(latents)
        numbers = [number for _, number in places]
        label = None
        if self.latents.label(0) is not None:
            label = torch.tensor([[float(self.latents.label(number) or 0)] * x0.shape[1] for number in numbers])
        return GroupBatch(
            x0=x0,
            condition=self._condition(prompts, crops),
            valid=torch.isfinite(x0.flatten(2)).all(-1),
            record_ids=tuple(ids),
            reward=None if rewards[0] is None else torch.stack(rewards),  # type: ignore[arg-type]
            label=label,
            preference=torch.tensor([self.latents.preference(number) for number in numbers]),
            mask=torch.stack(masks) if masks else None,
        )

    def _condition(self, prompts: Sequence[str], crops: Sequence[Tensor]) -> Condition:
        leaves = self.texts.stack(prompts)
        if self.crop_leaf is None or not crops:
            return Condition(leaves)
        return Condition(leaves | {self.crop_leaf: torch.stack(list(crops))}, per_member=frozenset({self.crop_leaf}))

    def _members_of(self, count: int, reward: Tensor | None, epoch: int, name: str) -> Tensor | slice:
        """Which of a group's `count` members the epoch sees: in the group's order, tied ones in an order drawn anew.

        An objective on ranks takes tied members as they stand; a fixed order would teach it to prefer one of them.
        """
        if self.members is None and (reward is None or len(reward.unique()) == count):
            return slice(None)
        drawn = torch.randperm(count, generator=seeded(self.seed, epoch, name, "members"))
        if self.members is not None:
            drawn = drawn if reward is None else drawn[~reward[drawn].isnan()]
            if len(drawn) < self.members:
                what = "members" if len(drawn) == count else "scored members"
                raise DataError(f"record {name!r}: has {len(drawn)} {what}, and data.members asks for {self.members}")
            drawn = drawn[: self.members]
        if reward is None:
            return drawn.sort().values
        falling = reward[drawn].nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        return drawn[falling]
