"""The training step with a bank of reference errors against the live reference, in one process, taken in turns.

    python benchmarks/reference_bank.py              # diffusion_dpo on zoo://shapes-sd, 32 pairs, one thread

The figure is seconds of a step with the bank / seconds of a step that asks the reference, the median over pairs of
neighbouring steps with its quartiles; and how long the bank took to fill, once for all runs on these draws.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch

from diffalign.config import load_config
from diffalign.training.build_trainer import build_trainer
from diffalign.training.offline import OfflineTrainer


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def trainer(bank: str) -> OfflineTrainer:
            config = load_config(
                "quickstart/diffusion_dpo.yaml",
                [
                    f"folder={folder}",
                    "device=cpu",
                    f"training.groups={options.groups}",
                    f"training.threads={options.threads}",
                    f"training.reference_bank={bank}",
                ],
            )
            torch.set_num_threads(options.threads)
            return build_trainer(config)

        live = trainer("null")
        started = time.perf_counter()
        banked = trainer("1")
        filling = time.perf_counter() - started
        for each in (live, banked, live, banked):
            each.train_step()
        pairs = []
        for number in range(options.steps):
            first, second = (live, banked) if number % 2 else (banked, live)
            seconds = {id(first): timed(first.train_step), id(second): timed(second.train_step)}
            pairs.append((seconds[id(banked)], seconds[id(live)]))
    low, middle, high = statistics.quantiles([ours / theirs for ours, theirs in pairs], n=4)
    print(f"bank / live: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}; {options.steps} steps each, in turns")
    print(f"one epoch's draws of {len(banked.data)} pairs, model and caches included: {filling:.1f} s")


if __name__ == "__main__":
    main()
