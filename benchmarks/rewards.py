"""How fast each reward of the table is on one core: pictures, or seconds of sound or video, a second.

    OMP_NUM_THREADS=1 python benchmarks/rewards.py      # all that load without a hub; 64, 256 and 512 pixels
    OMP_NUM_THREADS=1 python benchmarks/rewards.py --reward ocr --sizes 512

Prints the rows of docs/benchmarks.md's table. Samples are those of `self_test`: random pictures, drawn scenes, words.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffalign.exceptions import ConfigError, DataError, MissingExtraError
from diffalign.rewards import REWARDS, SET_REWARDS, Sample, any_reward_of_text
from diffalign.rewards.pictures import as_pixels
from diffalign.rewards.selftest_samples import examples_for, sound, video

SECONDS = 4.0  # of sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", action="append", help="NAME[:option=value,...]; default: all of the table")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--seconds", type=float, default=2.0, help="to measure each for, at least")
    told = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print("| reward | unit | " + " | ".join(map(str, told.sizes)) + " |")
    print("|---|---|" + "---|" * len(told.sizes))
    for text in told.reward or [*REWARDS, *SET_REWARDS]:
        try:
            reward = any_reward_of_text(text)
            figures = rates(reward, told.sizes, told.seconds)
        except (ConfigError, DataError, MissingExtraError) as error:
            print(f"{text}: left out: {str(error).splitlines()[0]:.150}")
            continue
        unit = {"image": "pictures/s", "audio": "s of sound/s", "video": "frames/s"}[reward.spec.media]
        print(f"| `{text}` | {unit} | {' | '.join(figures)} |", flush=True)


def rates(reward: Any, sizes: list[int], seconds: float) -> list[str]:
    """One figure a size; of sound one in all."""
    if reward.spec.media == "audio":
        samples = examples(reward, [sound(seed, SECONDS) for seed in range(4)])
        return [figure(rate(reward, samples, seconds) * SECONDS), *[""] * (len(sizes) - 1)]
    if reward.spec.media == "video":
        made = [examples(reward, [video(seed, size, size) for seed in range(2)]) for size in sizes]
        return [figure(rate(reward, each, seconds) * len(each[0].media.frames)) for each in made]
    return [figure(rate(reward, resized(reward, size), seconds)) for size in sizes]


def resized(reward: Any, size: int) -> list[Sample]:
    """The samples of the self-test, scaled."""
    given = examples(reward, None)
    pictures = [scaled(sample.media, size) for sample in given]
    told = [
        {"reference": scaled(each.metadata["reference"], size)} if "reference" in each.metadata else each.metadata
        for each in given
    ]
    made = zip(given, pictures, told, strict=True)
    return [replace(sample, media=picture, metadata=facts) for sample, picture, facts in made]


def scaled(picture: Any, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(as_pixels(picture)).resize((size, size), Image.Resampling.BICUBIC))


def examples(reward: Any, media: list[Any] | None) -> list[Sample]:
    """Four samples, with these media where some are given."""
    spec = reward.spec if reward.spec.level == "instance" else replace(reward.spec, needs=())
    given = examples_for(spec)
    return given if media is None else [replace(each, media=one) for each, one in zip(given, media, strict=False)]


def rate(reward: Any, samples: list[Sample], seconds: float) -> float:
    """Samples a second: the best of the rounds, for others use the machine too."""
    score = reward.score if reward.spec.level == "instance" else reward.score_set
    score(samples)  # what is loaded at the first call is not counted
    best, begun = 0.0, time.perf_counter()
    while time.perf_counter() - begun < seconds or not best:
        start = time.perf_counter()
        score(samples)
        best = max(best, len(samples) / (time.perf_counter() - start))
    return best


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


if __name__ == "__main__":
    main()
