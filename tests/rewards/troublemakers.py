"""Rewards that go wrong when they are told to, for worker processes: the prompt says how."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from diffalign.rewards import RewardSpec, Sample, SampleReward


class Troublemaker(SampleReward):
    """The brightness of a picture, or trouble. Component `prefix`: 1 where the interpreter is the one of `home`."""

    components = ("at_home",)

    def __init__(self, home: str = sys.prefix) -> None:
        self.home = home
        self.spec = RewardSpec(
            name="troublemaker",
            version="1",
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 255.0),
            differentiable=False,
            licence="Apache-2.0",
            needs=("prompt",),
            source="these tests",
            deterministic=True,
        )

    def judge(self, medium, sample: Sample) -> tuple[float, dict[str, float]]:
        what, _, told = sample.prompt.partition(" ")
        if what == "die":
            print("I will not", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "once" and not Path(told).exists():
            Path(told).touch()
            os._exit(3)
        if what == "sleep":
            time.sleep(3600)
        if what == "raise":
            raise RuntimeError("no such luck")
        if what == "talk":
            print("libraries write to stdout" * 1000)
            os.system("echo and so do programs that they start")
        return float(medium.mean()), {"at_home": float(Path(sys.prefix) == Path(self.home))}


def make(home: str = sys.prefix) -> Troublemaker:
    return Troublemaker(home)


def make_no_reward() -> str:
    return "not a reward"


def make_nothing() -> Troublemaker:
    raise ValueError("weights are gone")


class OnceLoaded(Troublemaker):
    """It ends after its first answers; of the times that it is loaded again, so many end in death."""

    def judge(self, medium, sample: Sample) -> tuple[float, dict[str, float]]:
        if sample.prompt.startswith("once"):
            return super().judge(medium, sample)
        return float(medium.mean()), {}


def dies_while_loading(log: str, deaths: int) -> Troublemaker:
    """The first load succeeds, the next `deaths` die, all others succeed."""
    with open(log, "a+") as file:
        file.seek(0)
        loads = len(file.read())
        file.write("x")
    if 0 < loads <= deaths:
        os._exit(9)
    return OnceLoaded()


def leave() -> Troublemaker:
    print("out of memory, somehow", file=sys.stderr, flush=True)
    os._exit(7)
