"""What rewards share whose work is done elsewhere: in another process, or behind an address."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.wire import pack_sample
from diffalign.rewards.wire_media import Packed


def without_gradients(spec: RewardSpec) -> RewardSpec:
    """The spec of the same reward where no gradients flow to the media."""
    return replace(spec, differentiable=False)


class RemoteReward(BatchReward):
    """A reward that is asked by messages: `ask` is all that such a reward has to write."""

    @abstractmethod
    def ask(self, samples: Sequence[Packed]) -> list[Judged]:
        """What is said of each sample."""

    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        judged: list[Judged] = []
        packed: list[tuple[int, Packed]] = []
        for place, (medium, sample) in enumerate(zip(media, samples, strict=True)):
            try:
                packed.append((place, pack_sample(medium, sample, self.spec)))
                judged.append("")
            except (DataError, ShapeError) as error:
                judged.append(str(error))
        if packed:
            found = self.ask([each for _, each in packed])
            for (place, _), each in zip(packed, found, strict=True):
                judged[place] = each
        return judged
