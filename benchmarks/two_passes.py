"""Peak memory and time of one step against the number of members of a group: one pass and two.

    python benchmarks/two_passes.py                  # gdro on zoo://shapes-sd, 8 groups of 2, 4, 8, 16 members

Every case runs in a process of its own. The figure is the resident memory that the step adds at its peak to what the
process had before it (model, optimizer, batch), in MB; and the seconds of the second step. One pass keeps the graph of
all groups * members; two passes that of `training.max_batch` samples.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from diffalign.config import load_config
from diffalign.denoising import draw_noise
from diffalign.training.build import build_time
from diffalign.training.build_trainer import build_trainer
from diffalign.training.micro_batch import MicroBatch
from diffalign.types import GroupBatch

PAGE = resource.getpagesize()


def resident() -> float:
    """MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


class Peak:
    """The most resident memory seen inside this context, sampled every millisecond."""

    def __enter__(self) -> Peak:
        self.most, self._done = resident(), False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._done:
            self.most = max(self.most, resident())
            time.sleep(0.001)


def measure(members: int, two_pass: bool, groups: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            "quickstart/diffusion_dpo.yaml",
            [
                f"folder={folder}",
                "device=cpu",
                "objective={name: gdro, beta: 30, tau: 1}",
                "data.kind=groups",
                f"training.groups={groups}",
                f"training.two_pass={str(two_pass).lower()}",
                "training.max_batch=" + ("8" if two_pass else "null"),
                "training.threads=1",
            ],
        )
        torch.set_num_threads(1)
        trainer = build_trainer(config)
        time_of = build_time(config, trainer.backbone)
        seen = trainer.data.batch([(0, number) for number in range(groups)])
        x0 = seen.x0[:, :1].expand(-1, members, *seen.x0.shape[2:]).contiguous()
        generator = torch.Generator().manual_seed(0)
        batch = GroupBatch(
            x0,
            seen.condition,
            torch.ones(groups, members, dtype=torch.bool),
            seen.record_ids,
            reward=torch.rand(groups, members, generator=generator),
        )
        micro = MicroBatch(batch, draw_noise(x0, time_of, generator=generator), None, last=True, progress=0.0)
        trainer._micro_batch = lambda number: micro  # type: ignore[method-assign]
        before = resident()
        with Peak() as peak:
            trainer.train_step()
        started = time.perf_counter()
        trainer.train_step()
        return {"peak": peak.most - before, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(int(options.case[0]), options.case[1] == "two", options.groups)))
        return
    for members in options.members:
        figures = {}
        for passes in ("one", "two"):
            command = [sys.executable, __file__, "--groups", str(options.groups), "--case", str(members), passes]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[passes] = json.loads(done.stdout.splitlines()[-1])
        one, two = figures["one"], figures["two"]
        print(
            f"{members:3d} members: one pass {one['peak']:6.0f} MB {one['seconds']:5.2f} s, "
            f"two passes {two['peak']:6.0f} MB {two['seconds']:5.2f} s"
        )


if __name__ == "__main__":
    main()
