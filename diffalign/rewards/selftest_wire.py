"""A check that a reward says the same of what comes from another process, without a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from diffalign.rewards.protocol import BatchReward, Judged, Reward, Sample
from diffalign.rewards.remote_reward import RemoteReward, without_gradients
from diffalign.rewards.selftest_checks import NotApplicable, TestFailure, cut
from diffalign.rewards.wire import pack_judged, pack_samples, read_judged, read_samples
from diffalign.rewards.wire_media import Packed


class Wired(RemoteReward):
    """A reward that is asked as a worker process and a server ask theirs: samples and scores become messages."""

    def __init__(self, reward: BatchReward) -> None:
        self.reward, self.components, self.batch = reward, reward.components, reward.batch
        self.spec = without_gradients(reward.spec)

    def ask(self, samples: Sequence[Packed]) -> list[Judged]:
        _, unpacked = read_samples(pack_samples(samples))
        name = self.spec.name
        reply = pack_judged({name: self.reward.judge_samples(unpacked)}, {name: self.reward})
        return read_judged(reply, name, len(samples))[1]


def check_wired(reward: Reward, samples: Sequence[Sample], same: Callable[[Tensor, Tensor, str], str]) -> str:
    """Values, reasons and components of samples that were packed and unpacked are those of the samples themselves."""
    if not isinstance(reward, BatchReward):
        raise NotApplicable("it is no BatchReward, and only these go there")
    here, there = reward.score(samples), Wired(reward).score(samples)
    said = same(there.values, here.values, "in a process")
    if there.reasons != here.reasons:
        odd = next(pair for pair in zip(there.reasons, here.reasons, strict=True) if pair[0] != pair[1])
        raise TestFailure(f"in a process: the reason is {cut(str(odd[0]), 80)}, here {cut(str(odd[1]), 80)}")
    if there.components.keys() != here.components.keys():
        raise TestFailure(f"in a process: components {[*there.components]}, here {[*here.components]}")
    for name, values in here.components.items():
        same(there.components[name], values, f"in a process, {name}")
    return said
