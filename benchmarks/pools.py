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

from diffalign.data import prompts_of
from diffalign.zoo import locate

SAMPLERS = {
    "euler": ["--sampler", "flow_euler", "--steps", "10"],
    "heun": ["--sampler", "flow_heun", "--steps", "5"],  # nearly as many calls
    "sde": ["--sampler", "flow_sde", "--steps", "10"],
}
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
    listed = options.out / "prompts.txt"
    captions = list(dict.fromkeys(prompts_of(locate("zoo://shapes-sd3/preferences"))))[: options.prompts]
    listed.write_text("".join(f"{caption}\n" for caption in captions))
    for name, sampler in SAMPLERS.items():
        home = options.out / name
        drawn, scores, groups = home / "drawn", home / "scores.jsonl", home / "groups.jsonl"
        run("generate", "--prompts", listed, "--out", drawn, "--model", "zoo://shapes-sd3", "--count", 4,
            "--guidance-scale", 2, "--batch", 32, "--seed", 0, *sampler)  # fmt: skip
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
