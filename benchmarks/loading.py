"""Start-up, cache and loader: what is waited for before and between the steps.

    python benchmarks/loading.py                     # SD1.5 at a quarter of its width, 64 pairs of 256 pixels, one thread

- Start-up: seconds of `diffalign check`, which loads no torch, and of a run of one step with an empty and with a filled
  cache, each a process of its own.
- Filling the cache / a bare loop that decodes the same files, crops, and calls the autoencoder in batches of the same size,
  in seconds, taken in turns.
- Loader: reading one batch from the cache / one training step, in seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from quarter_sd import SIDE, save_pairs, save_quarter_sd

from diffalign.config import RunConfig, load_config
from diffalign.training.build import build_backbone
from diffalign.training.build_data import build_data
from diffalign.training.build_trainer import build_trainer

ENCODE_BATCH = 8


def settings(home: Path, cache: str, options: argparse.Namespace) -> list[str]:
    return [
        f"folder={home / 'runs'}",
        "device=cpu",
        f"model.path={home / 'model'}",
        "model.precision=fp32",
        f"data.path={home / 'pairs'}",
        f"data.resolution={SIDE}",
        "data.flip=false",
        f"data.cache={home / cache}",
        f"data.encode_batch={ENCODE_BATCH}",
        "training.mixed_precision=no",
        f"training.groups={options.groups}",
        "training.accumulation=1",
        f"training.threads={options.threads}",
    ]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def command(*words: str) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return timed(
        lambda: subprocess.run(
            [sys.executable, "-m", "diffalign", *words], check=True, capture_output=True, env=environment
        )
    )


def start_up(home: Path, options: argparse.Namespace) -> dict[str, float]:
    given = [word for each in settings(home, "start", options) for word in ("--set", each)]
    once = ["--set", "training.steps=1", "--set", "optimizer.warmup_steps=0", *given]
    return {
        "diffalign check": command("check", "--config", "sd15_dpo_lora.yaml", *given),
        "one step, empty cache": command("train", "--config", "sd15_dpo_lora.yaml", *once),
        "one step, filled cache": command("train", "--config", "sd15_dpo_lora.yaml", *once),
    }


def filling(home: Path, options: argparse.Namespace) -> tuple[float, list[float]]:
    """Pictures a second, and seconds of ours / the bare loop's."""

    def config(number: int) -> RunConfig:
        return load_config("sd15_dpo_lora.yaml", settings(home, f"fill-{number}", options))

    backbone = build_backbone(config(0), torch.device("cpu"))
    vae, files = backbone.pipeline.vae, sorted((home / "pairs").glob("*.png"))

    def bare() -> None:
        for start in range(0, len(files), ENCODE_BATCH):
            part = [
                np.asarray(Image.open(path).convert("RGB"), np.float32) for path in files[start : start + ENCODE_BATCH]
            ]
            pictures = torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) / 127.5 - 1
            with torch.no_grad():
                vae.encode(pictures)

    ratios, seconds = [], []
    for number in range(options.repeats):
        theirs = timed(bare)
        ours = timed(lambda number=number: build_data(config(number), backbone))
        ratios.append(ours / theirs)
        seconds.append(ours)
    return len(files) / statistics.median(seconds), ratios


def loader(home: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of one batch from the cache, and of one step."""
    trainer = build_trainer(load_config("sd15_dpo_lora.yaml", settings(home, "start", options)))
    places = [[(epoch, number) for number in range(options.groups)] for epoch in range(20)]
    trainer.train_step()
    batches = [timed(lambda part=part: trainer.data.batch(part)) for part in places]
    return statistics.median(batches), statistics.median(timed(trainer.train_step) for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        save_quarter_sd(home / "model")
        save_pairs(home / "pairs", options.pairs)
        for name, seconds in start_up(home, options).items():
            print(f"{name}: {seconds:.1f} s")
        rate, ratios = filling(home, options)
        print(
            f"filling the cache: {rate:.1f} pictures/s; ours / bare loop: median {statistics.median(ratios):.3f}, "
            f"{min(ratios):.3f} to {max(ratios):.3f}"
        )
        batch, step = loader(home, options)
        print(f"loader / step: {batch / step:.4f} ({1000 * batch:.1f} ms of {step:.2f} s)")


if __name__ == "__main__":
    main()
