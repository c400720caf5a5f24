"""Stable shapes against CPU seconds per object: the base model, searches at test time, and an aligned model.

    python -m benchmarks.stability_test_time --run runs/dso_dro-TIME --out stable          # every held-out caption
    python -m benchmarks.stability_test_time --run ... --captions 16 --best 2 4            # shorter

Every method makes one object for each caption, one after the other, on one thread. Searches are guided by the simulator
(the tilt, with parts that do not touch falling) or by the static margin; what they found is judged by another nudge than
they saw. Also how much is left of the base model's shape of the same caption and seed: the cells that both share (IoU) and
the Chamfer distance. Best-of-n draws from other seeds, so it is as far away as two draws of the base model are; that stands
beside it. Prints a table, and writes OUT/table.json and OUT/figure.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from benchmarks.stability_alignment import checked_run
from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.geometry import compare_shapes
from diffalign.evaluation.statistics import win_rate
from diffalign.pipelines import ImageGenerator, best_of_n
from diffalign.pipelines.shape_search import push_margin, search_noise
from diffalign.rewards import StabilityReward
from diffalign.training.build import held_out_prompts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEEN, JUDGE = 0, 1000  # seeds of the nudge
GUIDE = StabilityReward(form="tilt", pieces="fall", seed=SEEN)
WHOLE = StabilityReward(pieces="fall", seed=JUDGE)
JOINED = StabilityReward(seed=JUDGE)
ENOUGH = -5.0  # degrees
Maker = Callable[[str, int], Tensor]  # one object of a caption and a seed


def methods(generator: ImageGenerator, best: list[int], tries: list[int], aligned: str) -> dict[str, Maker]:
    """What makes one object of a caption and a seed: occupancy [1, x, y, z]; `aligned` is the view that the run was for."""

    def drawn(view: str) -> Maker:
        return lambda caption, seed: next(generator([caption], [seed], view=view))[0]

    def chosen(count: int, view: str = "reference") -> Maker:
        return lambda caption, seed: best_of_n(
            generator, [caption], GUIDE, count, seed=seed * count, view=view
        ).pictures[0]

    def searched(most: int) -> Maker:
        return lambda caption, seed: (
            search_noise(generator, caption, seed, GUIDE, enough=ENOUGH, tries=most, view="reference").grid
        )

    base = drawn("reference")
    return {
        "base": base,
        **{f"best of {count}": chosen(count) for count in best},
        **{f"noise search, {most} tries": searched(most) for most in tries},
        "gradient on the margin": lambda caption, seed: push_margin(base(caption, seed)).grid,
        "aligned": drawn(aligned),
        "aligned, gradient on the margin": lambda caption, seed: push_margin(drawn(aligned)(caption, seed)).grid,
    }


def measure(make: Maker, asked: list[str], first: int, base: list[Tensor]) -> dict[str, float]:
    make(asked[0], first)  # warm
    started = time.process_time()
    grids = [make(caption, first + number) for number, caption in enumerate(asked)]
    seconds = (time.process_time() - started) / len(asked)
    stands = WHOLE(grids).double().numpy()
    share = win_rate(stands, confidence=0.95)
    return {
        "stands": share.value,
        "low": share.low,
        "high": share.high,
        "stands_as_one_body": JOINED(grids).mean().item(),
        "seconds": seconds,
        "volume": (torch.stack(grids) > 0.5).float().mean().item(),
        **kept_of(base, grids, asked),
    }


def kept_of(base: list[Tensor], grids: list[Tensor], asked: list[str]) -> dict[str, float]:
    """Shared cells and Chamfer distance to the base model's shapes."""
    found = compare_shapes(torch.stack(base), torch.stack(grids), asked, EvaluationConfig(resamples=1))
    return {name: found.get(name, float("nan")) for name in ("shared", "chamfer")}


def draw(table: dict[str, dict[str, float]], yardstick: float, path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(12, 5.2), dpi=110)
    for axes, name in zip(panels, ("stands", "shared"), strict=True):
        for (method, row), marker in zip(table.items(), cycle("osD^vPX*<>"), strict=False):
            spread = [[row["stands"] - row["low"]], [row["high"] - row["stands"]]] if name == "stands" else None
            colour = "tab:green" if "aligned" in method else "tab:gray" if method == "base" else "tab:blue"
            axes.errorbar(
                row["seconds"], row[name], yerr=spread, fmt=marker, ms=8, capsize=3, color=colour, label=method
            )
        axes.set(xscale="log", xlabel="CPU seconds per object, one thread", ylim=(0, 1.05))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=8)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="share that stands, in one piece")
    panels[1].set(ylabel="shared with the base model's shape (IoU)")
    panels[1].axhline(yardstick, color="tab:gray", linestyle="--", label="two draws of base for one caption")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of family volume")
    parser.add_argument("--out", type=Path, default=Path("stable"))
    parser.add_argument("--captions", type=int, help="of the held-out ones; all unless told")
    parser.add_argument("--seed", type=int, default=7000, help="of the first object")
    parser.add_argument("--best", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--tries", type=int, nargs="*", default=[8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = checked_run(options.run)
    captions = held_out_prompts(run.config)[: options.captions]
    made = methods(run.generator, options.best, options.tries, run.view)
    base, again = (
        [made["base"](caption, first + number) for number, caption in enumerate(captions)]
        for first in (options.seed, options.seed + len(captions))
    )
    yardstick = kept_of(base, again, captions)
    table = {}
    for name, make in made.items():
        row = table[name] = measure(make, captions, options.seed, base)
        print(
            f"{name:34} stands {row['stands']:6.1%} ({row['low']:.1%} to {row['high']:.1%})  as one body "
            f"{row['stands_as_one_body']:6.1%}  {row['seconds']:7.3f} s  filled {row['volume']:.3f}  "
            f"shared {row['shared']:.2f}  chamfer {row['chamfer']:.3f}",
            flush=True,
        )
    print(f"two draws of base: shared {yardstick['shared']:.2f}  chamfer {yardstick['chamfer']:.3f}")
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"methods": table, "two_draws": yardstick}
    (options.out / "table.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(table, yardstick["shared"], options.out / "figure.png")


if __name__ == "__main__":
    main()
