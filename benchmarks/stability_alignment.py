"""Is an aligned model of zoo://blocks-volume more stable, and still the model that it was? Measured anew, against bounds.

    python -m benchmarks.stability_alignment runs/dso_dpo-TIME [RUN ...]          # every held-out caption, 4 shapes each
    python -m benchmarks.stability_alignment runs/dso_dpo-TIME --captions 16 --members 2                # shorter

Base and aligned draw shapes of the same captions and seeds, which the run's own evaluation did not use; training draws for
other captions. The simulator judges them with another nudge than the run learnt from. Prints what was found of each run
and over the runs, as a Markdown table, and which of the bounds below are kept; writes OUT/table.json. Exit code 1: one is
broken. A grid without a filled cell does not stand (its tilt is 180 degrees), and is left out of the figures of form.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.geometry import compare_shapes
from diffalign.evaluation.reward_figures import reward_figures
from diffalign.exceptions import DiffalignError
from diffalign.pipelines import ImageGenerator
from diffalign.rewards import Sample, StabilityReward
from diffalign.rewards.functional import picture_diversity
from diffalign.training import Run, load_run
from diffalign.training.build import held_out_prompts
from makers.blocks_measure import Examples, measure
from makers.blocks_objects import captions

GAIN = 0.25  # the share that stands rises by so much, in the mean over runs
GAIN_OF_A_RUN = 0.15  # and the interval of each run lies above this
VOLUME = 1.35  # aligned over base: no fuller
F_SCORE = 0.60  # to the base model's shape of the same caption and seed
CHAMFER = 0.05  # to that shape, and less than two draws of the base model are apart
SHARED = 0.50  # with that shape
ACROSS, WITHIN = 0.90, 0.75  # diversity over the base model's, of different captions and of one
KIND = 0.05  # shapes of the kind that was asked for: no more are lost

JUDGE = 1000  # seed of the nudge; runs learn with 0
STATISTICS = EvaluationConfig()  # confidence, resamples
ADHERENCE = ("kind", "direction", "words", "caption")
Figures = dict[str, float]


def draw(run: Run, asked: list[str], seeds: list[int], view: str) -> Tensor:
    generator: ImageGenerator = run.generator
    return torch.cat(list(generator(asked, seeds, view=view)))


def stability(base: Tensor, aligned: Tensor, asked: list[str]) -> Figures:
    found: Figures = {}
    for name, pieces in (("stands", "fall"), ("as one body", "joined")):
        reward = StabilityReward(pieces=pieces, seed=JUDGE)
        sides = [
            reward.score([Sample(grid, caption, id=str(place)) for place, (grid, caption) in enumerate(pairs)])
            for pairs in (zip(base, asked, strict=True), zip(aligned, asked, strict=True))
        ]
        means = reward_figures(reward.spec, (sides[0], sides[1]), asked, STATISTICS)
        if means["unscored"]:
            raise SystemExit(
                f"{means['unscored']} of {len(asked)} shapes could not be judged: {next(iter(means['reasons']))}"
            )
        found |= {f"{name}, base": means["base_mean"], f"{name}, aligned": means["aligned_mean"]}
        found |= {f"{name}, gain": means["difference"], f"{name}, low": means["low"], f"{name}, high": means["high"]}
        if pieces == "fall":
            tilt = means["components"]["tilt"]
            found |= {"tilt in degrees, base": tilt["base_mean"], "tilt in degrees, aligned": tilt["aligned_mean"]}
    return found


def form(base: Tensor, aligned: Tensor, asked: list[str]) -> Figures:
    kept = compare_shapes(base, aligned, asked, STATISTICS)
    if "two_draws" not in kept or "volume" not in kept:
        raise SystemExit(
            f"nothing to compare: {kept['empty'][0]} and {kept['empty'][1]} of {len(asked)} grids are empty"
        )
    across = [picture_diversity(side, asked) for side in (base, aligned)]
    within, volume, pieces = kept["diversity_within"], kept["volume"], kept["pieces"]
    found = {
        "volume, aligned / base": volume["aligned"] / volume["base"],
        "pieces, base": pieces["base"],
        "pieces, aligned": pieces["aligned"],
    }
    for name in ("chamfer", "f_score", "shared"):
        found |= {name: kept[name], f"{name}, two draws of base": kept["two_draws"][name]}
    found["chamfer, one surface sampled twice"] = kept["chamfer_floor"]
    return found | {
        "diversity across captions, aligned / base": across[1] / across[0],
        "diversity within a caption, aligned / base": within["aligned"] / within["base"],
        "empty, base": float(kept["empty"][0]),
        "empty, aligned": float(kept["empty"][1]),
    }


def adherence(base: Tensor, aligned: Tensor, asked: list[str], examples: Examples) -> Figures:
    shapes = captions()
    wanted = [shapes[caption] for caption in asked]
    sides = [measure(list(side[:, 0].numpy() > 0.5), wanted, examples) for side in (base, aligned)]
    return {
        f"{name} as asked, {side}": seen[name]
        for name in ADHERENCE
        for side, seen in zip(("base", "aligned"), sides, strict=True)
    }


def bounds(runs: list[Figures]) -> dict[str, bool]:
    """What is demanded -> whether it is kept; of every run unless it says otherwise."""
    gain, base = "stands, gain", "two draws of base"

    def every(kept: Callable[[Figures], bool]) -> bool:
        return all(kept(run) for run in runs)

    across, within = (f"diversity {name}, aligned / base" for name in ("across captions", "within a caption"))
    return {
        f"share that stands: +{GAIN} or more in the mean over runs": np.mean([run[gain] for run in runs]) >= GAIN,
        f"its interval lies above +{GAIN_OF_A_RUN}": every(lambda run: run["stands, low"] > GAIN_OF_A_RUN),
        f"volume at most {VOLUME} times the base's": every(lambda run: run["volume, aligned / base"] <= VOLUME),
        f"f_score {F_SCORE} or more": every(lambda run: run["f_score"] >= F_SCORE),
        f"chamfer at most {CHAMFER}": every(lambda run: run["chamfer"] <= CHAMFER),
        f"chamfer below that of {base}": every(lambda run: run["chamfer"] < run[f"chamfer, {base}"]),
        f"shared {SHARED} or more": every(lambda run: run["shared"] >= SHARED),
        f"diversity across captions {ACROSS} times the base's or more": every(lambda run: run[across] >= ACROSS),
        f"diversity within a caption {WITHIN} times the base's or more": every(lambda run: run[within] >= WITHIN),
        f"kind as asked: at most {KIND} less than the base": every(
            lambda run: run["kind as asked, aligned"] >= run["kind as asked, base"] - KIND
        ),
    }


def markdown(table: dict[str, Figures]) -> str:
    """A line for each figure, a column for each run, and mean, lowest and highest."""
    runs = list(table.values())
    lines = [f"| | {' | '.join(table)} | mean | lowest | highest |", "|---" * (len(runs) + 4) + "|"]
    for name in runs[0]:
        values = [run[name] for run in runs]
        cells = [f"{value:.3f}" for value in (*values, float(np.mean(values)), min(values), max(values))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def checked_run(folder: Path) -> Run:
    """The run; what is wrong with it is one line and exit code 2, as of the command line."""
    try:
        return load_run(folder)
    except DiffalignError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def measured(folder: Path, options: argparse.Namespace, examples: Examples) -> Figures:
    started = time.monotonic()
    run = checked_run(folder)
    config = run.config.evaluation
    if run.config.model.family != "volume" or config.prompts is None:
        raise SystemExit(f"{folder}: give runs of model.family volume with evaluation.prompts")
    told = list(dict.fromkeys(held_out_prompts(run.config)))
    if unknown := [caption for caption in told if caption not in captions()]:
        raise SystemExit(f"{folder}: {unknown[0]!r} is no caption of zoo://blocks-volume, which this benchmark is for")
    asked = told[: options.captions] * options.members
    seeds = list(range(options.seed, options.seed + len(asked)))
    used = range(config.seed, config.seed + len(held_out_prompts(run.config)) * config.members)
    if seeds[0] < used.stop and used.start <= seeds[-1]:
        raise SystemExit(f"--seed {options.seed}: {folder} was evaluated with seeds {used.start} to {used.stop - 1}")
    base, aligned = (draw(run, asked, seeds, view) for view in ("reference", run.view))
    found = stability(base, aligned, asked) | form(base, aligned, asked) | adherence(base, aligned, asked, examples)
    seconds = time.monotonic() - started
    print(f"{folder}: {len(asked)} shapes of each model, {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run of family volume")
    parser.add_argument("--members", type=int, default=4, help="shapes of each caption, 2 or more")
    parser.add_argument("--captions", type=int, help="of the held-out ones; all unless told")
    parser.add_argument("--seed", type=int, default=9000, help="of the first shape")
    parser.add_argument("--examples", type=int, default=16, help="procedural objects of every caption to compare with")
    parser.add_argument("--out", type=Path, default=Path("stable_alignment"))
    options = parser.parse_args()
    if options.members < 2:
        parser.error("--members: two draws of a caption are compared; give 2 or more")
    if len({folder.resolve().name for folder in options.runs}) < len(options.runs):
        parser.error("RUN: two folders have one name; give each run once")
    torch.set_num_threads(1)
    examples = Examples.draw(options.examples, seed=2)
    table = {folder.resolve().name: measured(folder, options, examples) for folder in options.runs}
    kept = {name: bool(holds) for name, holds in bounds(list(table.values())).items()}
    print(markdown(table))
    print()
    for name, holds in kept.items():
        print(f"{'kept  ' if holds else 'BROKEN'}  {name}")
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"members": options.members, "captions": options.captions, "seed": options.seed}
    content = {**settings, "examples": options.examples, "runs": table, "bounds": kept}
    (options.out / "table.json").write_text(json.dumps(content, indent=1) + "\n")
    if not all(kept.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
