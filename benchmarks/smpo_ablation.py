"""What each part of SmPO brings on the zoo: hard labels on drawn noise, + inversion, + ReNoise, + soft labels.

    python benchmarks/smpo_ablation.py --out ablation          # the quickstart's size: hours on one core
    python benchmarks/smpo_ablation.py --out ablation --steps 100 --groups 16

Four trainings of equal length from one seed, on zoo://shapes-sd, each compared with the base model on held-out captions:
the change of the `scene` reward in both its forms, with a 95 % interval over captions. Runs and figures stay in --out: a
script that was broken off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffalign.config import RunConfig, load_config
from diffalign.evaluation.statistics import paired_bootstrap
from diffalign.pipelines import ImageGenerator
from diffalign.rewards import Sample, load_reward
from diffalign.training import resume, train
from diffalign.training.build import held_out_prompts

FORMS = ("graded", "strict")
HARD = ["objective={name: diffusion_dpo, beta: %g}", "data.reward_range=null"]
INVERSION = "training.noise={name: inversion, steps: %d, renoise: %d}"


def rows(options: argparse.Namespace) -> dict[str, list[str]]:
    """What each row sets over quickstart/smpo.yaml."""
    hard = [HARD[0] % options.beta, HARD[1]]
    drawn, plain, renoised = (
        "training.noise={name: gaussian}",
        INVERSION % (options.levels, 0),
        INVERSION % (options.levels, 1),
    )
    return {
        "hard labels, drawn noise (diffusion_dpo)": [*hard, drawn],
        "+ inversion (DDIM)": [*hard, plain],
        "+ ReNoise (one pass)": [*hard, renoised],
        "+ soft labels (smpo)": [renoised],
        "soft labels, drawn noise": [drawn],
    }


def config_of(changes: list[str], options: argparse.Namespace) -> RunConfig:
    return load_config(
        "quickstart/smpo.yaml",
        [
            "device=cpu",
            f"seed={options.seed}",
            f"training.steps={options.steps}",
            f"training.groups={options.groups}",
            f"training.threads={options.threads}",
            "training.checkpoint_every=50",
            f"optimizer.warmup_steps={min(20, options.steps // 4)}",
            f"evaluation.count={options.prompts}",
            "samples.every=null",
            *changes,
        ],
    )


def scores(generator: ImageGenerator, view: str, config: RunConfig) -> dict[str, list[float]]:
    """Of every held-out caption, in both forms of the reward."""
    reward, prompts = load_reward("scene"), held_out_prompts(config)
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    seeds = [config.evaluation.seed + number for number in range(len(prompts))]
    for batch in generator(prompts, seeds, view=view):
        first = len(found["strict"])
        judged = reward.score([Sample(pixels, prompts[number]) for number, pixels in enumerate(batch, first)])
        for form in FORMS:
            found[form] += judged.components[form].tolist()
    return found


def trained(name: str, changes: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Scores of base and aligned, and seconds of a step; from the file where they are there already."""
    home = options.out / "".join(each if each.isalnum() else "-" for each in name)
    file = home / "scores.json"
    if file.is_file():
        content: dict[str, Any] = json.loads(file.read_text())
        return content
    config = config_of([f"folder={home}", *changes], options)
    begun = sorted(home.glob("smpo-*"))
    run = resume(begun[-1], progress=False) if begun else train(config, progress=False)
    steps = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds_per_step"] for row in steps if row["event"] == "step"]
    content = {
        "base": scores(run.generator, "reference", config),
        "aligned": scores(run.generator, run.view, config),
        "seconds": float(np.median(seconds)),
    }
    file.write_text(json.dumps(content))
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and figures")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--levels", type=int, default=5, help="steps of the inversion's grid")
    parser.add_argument("--beta", type=float, default=1200.0, help="of the rows with hard labels")
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    print(f"{options.steps} steps of {options.groups} pairs, {options.prompts} held-out captions, seed {options.seed}")
    for name, changes in rows(options).items():
        found = trained(name, changes, options)
        line = f"{name:<42}"
        for form in FORMS:
            base, aligned = (np.array(found[side][form]) for side in ("base", "aligned"))
            change = paired_bootstrap(aligned - base, confidence=0.95, resamples=10_000)
            line += f" {form} {base.mean():.3f} -> {aligned.mean():.3f}"
            line += f" ({change.value:+.3f}, {change.low:+.3f} to {change.high:+.3f})"
        print(f"{line} {found['seconds']:.1f} s/step", flush=True)


if __name__ == "__main__":
    main()
