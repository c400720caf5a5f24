"""Inversion alone: clean latents up to a sampler's first time and back, plain DDIM inversion against ReNoise, on the zoo.

    python benchmarks/inversion.py                       # zoo://shapes-sd, 16 pictures that the model drew, one thread
    python benchmarks/inversion.py --model sd3 --steps 10

The figure is |x0 back - x0|^2 / |x0|^2: its median and its largest over the pictures, and beside it network calls per step
up (regularised rows make one more) and the standard deviation of what was found, which for real noise would be that of
sigma noise plus alpha x0.
"""

from __future__ import annotations

import argparse
import tempfile

import torch

from diffalign.config import load_config
from diffalign.denoising import add_noise
from diffalign.samplers import DDIM, WINDOWS, FlowEuler, Regularise, ReNoise, Sampler, invert_along, retrace
from diffalign.training.build_trainer import build_trainer

CONFIGS = {"sd": "quickstart/diffusion_dpo.yaml", "sd3": "quickstart/flow_dpo.yaml"}


def ways(side: int) -> dict[str, ReNoise]:
    """The settings that are compared; the autocorrelation's step is the authors' at a latent of 64 by 64."""
    pull = Regularise(autocorrelation=20.0 * (side / 64) ** 2)
    return {
        "plain DDIM inversion": ReNoise(0),
        "1 pass, mean (SmPO)": ReNoise(1),
        "1 pass, last": ReNoise(1, average=None),
        "3 passes, last": ReNoise(3, average=None),
        "9 passes, windows (ReNoise)": ReNoise(9, WINDOWS),
        "9 passes, windows, regularised": ReNoise(9, WINDOWS, pull),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="sd")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(load_config(CONFIGS[options.model], [f"folder={folder}", "device=cpu"]))
    batch = trainer.data.batch([(0, number) for number in range(options.pictures)])
    x0, condition = batch.x0[:, 0].float(), batch.condition
    denoiser, times = trainer.backbone.view("policy"), trainer.backbone.times(options.steps)
    sampler: Sampler = DDIM() if options.model == "sd" else FlowEuler()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    real = add_noise(denoiser.process, x0, noise, times[:1].expand(len(x0)))
    print(f"{options.steps} steps from t = {times[-1]:g} to {times[0]:g}; std with drawn noise {real.std():.2f}")
    for name, renoise in ways(x0.shape[-1]).items():
        generators = [torch.Generator().manual_seed(number) for number in range(len(x0))]
        found = invert_along(denoiser, x0, condition, times, renoise=renoise, generators=generators)
        back = retrace(denoiser, sampler, condition, found)
        error = (back - x0).square().flatten(1).sum(1) / x0.square().flatten(1).sum(1)
        line = f"{name:<32} error: median {error.median():.1e}, largest {error.max():.1e}"
        print(f"{line}; {renoise.passes + 1} calls; std {found.x_t.std():.2f}", flush=True)


if __name__ == "__main__":
    main()
