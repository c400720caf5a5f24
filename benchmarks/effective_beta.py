"""What a constant beta on a network's own errors means on noise and on clean-sample errors, over the noise level.

    python benchmarks/effective_beta.py     # writes docs/figures/effective_beta.png, prints the table of docs/beta.md

No model is loaded: the curves follow from each family's process and prediction.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.lines import Line2D
from torch import Tensor

from diffalign.denoising import EDM, VP, LinearFlow, Prediction, shift_time
from diffalign.objectives.beta import effective_beta

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
AUDIOLDM2 = STABLE_DIFFUSION | {
    "beta_start": 0.0015,
    "beta_end": 0.0195,
}  # its own code's default; diffusers' converter
WAN_720P_SHIFT = 5.0  # of diffusers' Wan pipeline; 3 at 480p
LTX_SHIFT = math.exp(2.05)  # its scheduler's max_shift, at 4,096 tokens


class CosineVP:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): Stable Audio."""

    sigma_data = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi * t / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi * t / 2)


def uniform(quantile: Tensor) -> Tensor:
    return quantile


def logit_normal(quantile: Tensor, mean: float = 0.0) -> Tensor:
    return torch.sigmoid(mean + torch.special.ndtri(quantile))


def shifted(draw: Callable[[Tensor], Tensor], shift: float) -> Callable[[Tensor], Tensor]:
    return lambda quantile: shift_time(draw(quantile), shift)


def log_normal_edm(quantile: Tensor) -> Tensor:
    """Karras et al. 2022, table 1: ln sigma is normal(-1.2, 1.2)."""
    return EDM().time_of(torch.exp(-1.2 + 1.2 * torch.special.ndtri(quantile))).clamp(0, 1)


@dataclass(frozen=True)
class Family:
    label: str
    process: CosineVP | EDM | LinearFlow | VP
    prediction: Prediction
    draw: Callable[[Tensor], Tensor]  # quantile of the training draws -> t
    style: str

    def seen_as(self, space: Prediction, t: Tensor) -> Tensor:
        """beta on errors of `space` / beta on the network's own errors."""
        alpha, sigma, scale = self.process.alpha(t), self.process.sigma(t), self.process.sigma_data
        own, seen = (prediction.coefficients(alpha, sigma, scale) for prediction in (self.prediction, space))
        return torch.as_tensor(effective_beta(1.0, alpha, sigma, measure=own, prediction=seen))


SD = VP.from_scheduler_config(STABLE_DIFFUSION)
FLOW = LinearFlow()  # a shift moves the draws, not the process
FAMILIES = [
    Family("SD1.5, SDXL (noise)", SD, Prediction.NOISE, uniform, "C0-"),
    Family("SD on v (measure: v)", SD, Prediction.V, uniform, "C0--"),
    Family("AudioLDM2 (noise)", VP.from_scheduler_config(AUDIOLDM2), Prediction.NOISE, uniform, "C9:"),
    Family("SD3 (flow, logit-normal, shift 3)", FLOW, Prediction.FLOW, shifted(logit_normal, 3), "C1-"),
    Family(
        "FLUX 1024 px (flow, uniform, shift 3.16)",
        FLOW,
        Prediction.FLOW,
        shifted(uniform, 3.16),
        "C3:",
    ),
    Family("Wan 720p (flow, shift 5)", FLOW, Prediction.FLOW, shifted(uniform, WAN_720P_SHIFT), "C5-."),
    Family("LTX 4,096 tokens (flow, shift 7.77)", FLOW, Prediction.FLOW, shifted(uniform, LTX_SHIFT), "C6--"),
    Family("TRELLIS stage 1 (flow, logit-normal mean 1)", FLOW, Prediction.FLOW, partial(logit_normal, mean=1), "C8-"),
    Family("EDM (F, log-normal sigma)", EDM(), Prediction.EDM, log_normal_edm, "C2-"),
    Family("Stable Audio (cosine v)", CosineVP(), Prediction.V, uniform, "C4-"),
]


# Over t all linear flows are one line.
WITHOUT_TWINS = [
    *(family for family in FAMILIES if family.process is not FLOW),
    Family("every linear flow", FLOW, Prediction.FLOW, uniform, "k-"),
]


def draw_figure(path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.8), constrained_layout=True)
    inner = torch.linspace(0.005, 0.995, 397, dtype=torch.float64)
    panels = [
        ("t of the process", "on noise errors", Prediction.NOISE, False),
        ("t of the process", "on clean-sample errors", Prediction.SAMPLE, False),
        ("share of training draws with less noise", "on noise errors", Prediction.NOISE, True),
    ]
    for axis, (x_label, title, space, by_draw) in zip(axes, panels):
        for family in FAMILIES if by_draw else WITHOUT_TWINS:
            t = family.draw(inner) if by_draw else inner
            axis.plot(inner, family.seen_as(space, t), family.style, label=family.label, linewidth=1.5)
        axis.set(yscale="log", xlabel=x_label, title=f"own beta 1, {title}", ylim=(1e-4, 1e4))
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("effective beta")
    flow = Line2D([], [], color="black", linewidth=2, label="left, middle: every linear flow")
    lines, _ = axes[2].get_legend_handles_labels()
    figure.legend(handles=[*lines, flow], loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)


def print_table() -> None:
    quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    print("| family | " + " | ".join(f"{space} at {q:.0%}" for space in ("noise", "sample") for q in quantiles) + " |")
    print("|---" * 7 + "|")
    for family in FAMILIES:
        t = family.draw(quantiles)
        values = torch.cat([family.seen_as(space, t) for space in (Prediction.NOISE, Prediction.SAMPLE)])
        print(f"| {family.label} | " + " | ".join(f"{value:.3g}" for value in values.tolist()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1] / "docs" / "figures" / "effective_beta.png"
    parser.add_argument("--out", type=Path, default=here)
    path = parser.parse_args().out
    draw_figure(path)
    print_table()
    print(f"\n{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
