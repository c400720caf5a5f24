"""Peak memory of an online step against the number of steps that trajectories have.

    python benchmarks/online_memory.py                       # flow_grpo's objective on DDIM's steps, zoo://shapes-sd
    python benchmarks/online_memory.py --steps 5 10 20 40 --max-batch 8

Every case runs in a process of its own. The figure is the resident memory that a round and its optimizer step add at their
peak to what the process had before, in MB, and what the stored trajectories take of it (states, means, figures).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

import torch
from two_passes import Peak, resident

from diffalign.config import load_config
from diffalign.training.build_trainer import build_trainer


def measure(steps: int, max_batch: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            "quickstart/ddpo.yaml",
            [
                f"folder={folder}",
                "device=cpu",
                "online.prompts=4",
                "training.groups=4",
                "online.skip_last=0",
                f"online.sampler.steps={steps}",
                f"training.max_batch={'null' if max_batch is None else max_batch}",
                "training.threads=1",
            ],
        )
        torch.set_num_threads(1)
        trainer = build_trainer(config)
        before = resident()
        with Peak() as peak:
            trainer.train_step()
        (chunk,) = trainer._rounds[0].chunks.values()
        kept = [chunk.trajectory.states, chunk.trajectory.mean, chunk.trajectory.log_prob, chunk.trajectory.std]
        return {"peak": peak.most - before, "kept": sum(part.nbytes for part in kept) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--max-batch", type=int)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.max_batch)))
        return
    for steps in options.steps:
        command = [sys.executable, __file__, "--case", str(steps)]
        if options.max_batch is not None:
            command += ["--max-batch", str(options.max_batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{steps:3d} sampling steps: peak {figures['peak']:6.0f} MB, of it trajectories {figures['kept']:5.2f} MB"
        )


if __name__ == "__main__":
    main()
