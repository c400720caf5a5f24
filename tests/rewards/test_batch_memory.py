"""A batch that memory does not hold is judged in halves; what is too large by itself has no score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from diffalign.exceptions import is_out_of_memory
from diffalign.rewards import BatchReward, RewardSpec, Sample
from diffalign.rewards.protocol import Judged

SPEC = RewardSpec("greedy", "1", "image", "instance", "1", (0.0, 255.0), False, "Apache-2.0", (), "a test's own")


class Greedy(BatchReward):
    """The mean of a picture; memory holds `room` pixels of a batch."""

    spec, components, batch = SPEC, (), 16

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error = room, error
        self.asked: list[int] = []

    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        self.asked.append(len(media))
        if sum(each.shape[0] * each.shape[1] for each in media) > self.room:
            raise self.error
        return [(float(each.mean()), {}) for each in media]


def samples(*sides: int) -> list[Sample]:
    return [Sample(np.full((side, side, 3), number, np.uint8)) for number, side in enumerate(sides)]


OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT)
def test_halves_until_it_fits_and_stays_there(error, caplog):
    reward = Greedy(3 * 64, error)
    output = reward.score(samples(*[8] * 20))
    assert output.values.tolist() == list(range(20)) and set(output.reasons) == {None}
    assert reward.asked == [16, 8, 4, *[2] * 10] and reward.batch == 2 and Greedy.batch == 16
    assert "greedy: memory holds no 16 at a time; going on with 8" in caplog.text


def test_one_that_is_too_large_by_itself_has_no_score_and_the_others_do():
    output = Greedy(64, MemoryError()).score(samples(8, 9, 8))
    assert output.values[[0, 2]].tolist() == [0.0, 2.0]
    assert output.reasons == (None, "memory does not hold it", None)


def test_another_error_is_none_of_memory():
    with pytest.raises(RuntimeError, match="size mismatch"):
        Greedy(0, RuntimeError("size mismatch")).score(samples(8, 8))
    assert not is_out_of_memory(ValueError("out of memory")) and is_out_of_memory(OUT[0])
