"""The README's picture: what base and aligned model of a finished run drew, where the scene reward changed.

    python benchmarks/demo_pictures.py RUN docs/figures/demo.png

Taken are the first eight held-out prompts whose verdict changed, for the better or the worse, in the order of the prompts.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.run / "evaluation" / "records.jsonl").read_text().splitlines()]
    changed = [row for row in rows if row["rewards"]["scene"][0] != row["rewards"]["scene"][1]]
    better = sum(row["rewards"]["scene"][1] > row["rewards"]["scene"][0] for row in changed)
    print(f"{len(changed)} of {len(rows)} verdicts changed, {better} for the better; shown are the first {SHOWN}")
    figure, axes = plt.subplots(2, SHOWN, figsize=(1.35 * SHOWN, 3.3))
    for column, row in enumerate(changed[:SHOWN]):
        for line, name in enumerate(("base", "aligned")):
            axis, right = axes[line, column], row["rewards"]["scene"][line] == 1
            picture = Image.open(options.run / row[name])
            axis.imshow(picture.resize((160, 160), Image.Resampling.NEAREST))
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color="#2a9d4a" if right else "#c9382b", linewidth=3)
        axes[0, column].set_title(textwrap.fill(row["prompt"], 17), fontsize=7.5)
    axes[0, 0].set_ylabel("base", fontsize=9)
    axes[1, 0].set_ylabel("aligned", fontsize=9)
    figure.tight_layout(pad=0.4)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
