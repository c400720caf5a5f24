"""GDRO's claim: the same loss learns from groups whatever sampler drew them.

    python benchmarks/pools.py --out pools                  # Euler, Heun and stochastic steps on zoo://shapes-sd3

For each sampler the base model draws groups of four for the zoo's training captions, the scene checker scores them, and
gdro trains on them, with one set of settings and seeds. Prints the held-out graded reward's rise with its 95 % interval for
each. What is there already in OUT is kept, so that a call that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from diffalign.backbones import load_backbone
from diffalign.data import prompts_of
from diffalign.pipelines import ImageGenerator, draw_pictures
from diffalign.zoo import locate

MODEL = "zoo://shapes-sd3"
SAMPLERS = {"euler": ("flow_euler", 10), "heun": ("flow_heun", 5), "sde": ("flow_sde", 10)}  # name and steps
SETTINGS = [
    "optimizer.warmup_steps=20",
    "samples.every=null",
    "evaluation.rewards=[{name: scene, form: graded}, {name: jpeg}]",
]


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "diffalign", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pools"))
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--count", type=int, default=400, help="held-out captions")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    captions = list(dict.fromkeys(prompts_of(locate(f"{MODEL}/preferences"))))[: options.prompts]
    backbone = load_backbone("sd3", MODEL, max_sequence_length=1)  # the quickstart's: it has no T5
    for name, (sampler, steps) in SAMPLERS.items():
        home = options.out / name
        drawn, scores, groups = home / "drawn", home / "scores.jsonl", home / "groups.jsonl"
        generator = ImageGenerator.create(backbone, sampler=sampler, steps=steps, guidance_scale=2.0, batch=32)
        draw_pictures(generator, captions, drawn, count=4, view="reference", source=MODEL)
        run("score", "--input", drawn, "--out", scores, "--reward", "scene:form=graded")
        run("pair", "--input", scores, "--out", groups, "--kind", "groups")
        if not (home / "summary.json").exists():
            sets = [f"data.path={groups}", f"folder={home}", f"training.steps={options.steps}", *SETTINGS]
            sets += [f"evaluation.count={options.count}"]
            last = run(
                "train", "--config", "quickstart/gdro.yaml", *(part for each in sets for part in ("--set", each))
            )
            summary = Path(last.splitlines()[-1]) / "evaluation" / "summary.json"
            (home / "summary.json").write_text(summary.read_text())
        scene = json.loads((home / "summary.json").read_text())["rewards"]["scene"]
        print(
            f"{name:6s} {scene['base_mean']:.3f} -> {scene['aligned_mean']:.3f}, {scene['difference']:+.3f} "
            f"({scene['low']:+.3f} to {scene['high']:+.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
