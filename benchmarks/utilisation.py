"""What share of the machine's arithmetic a training step uses, its peak memory, and where its time goes.

    python benchmarks/utilisation.py                                             # SD1.5 at a quarter width, CPU, one thread
    python benchmarks/utilisation.py --model sdxl --device cuda --resolution 1024     # SDXL with random weights, bf16

Model FLOPs are those of the matrix products, convolutions and attentions of a step as torch counts them: both networks'
forwards and the backward, which with LoRA has no gradients of the frozen weights; what gradient checkpointing computes
again does not count. Utilisation is model FLOPs / seconds / the rate of a large matrix product measured here in the same
dtype. Also printed: what one call of the network, of the picture encoder and of the text encoder costs for one sample.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quarter_sd import save_pairs, save_quarter_sd
from random_sdxl import save_random_sdxl
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from diffalign.config import load_config
from diffalign.training.build_trainer import build_trainer

Shape = tuple[int, ...]


def _attention(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(grad: Shape, q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


ON_CPU = {  # torch counts the kernels of GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        work()
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product that fills the device: the best of ten."""
    side = 8192 if device.type == "cuda" else 1536
    left = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(10):
        started = clock(device)
        left @ left
        best = max(best, 2 * side**3 / (clock(device) - started))
    return best


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["quarter_sd", "sdxl"], default="quarter_sd")
    parser.add_argument("--width", type=float, default=1.0, help="of sdxl: channels, as a share of the real ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_gpu = options.device != "cpu"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = [
            f"folder={home / 'runs'}",
            f"device={options.device}",
            f"model.path={home / 'model'}",
            f"model.precision={'bf16' if on_gpu else 'fp32'}",
            f"data.path={save_pairs(home / 'pairs', 2 * options.groups, options.resolution)}",
            f"data.resolution={options.resolution}",
            "data.encode_batch=1",
            f"training.groups={options.groups}",
            "training.accumulation=1",
            f"training.mixed_precision={'bf16' if on_gpu else 'no'}",
            f"training.threads={options.threads}",
        ]
        if options.model == "sdxl":
            save_random_sdxl(home / "model", options.width, torch.bfloat16 if on_gpu else torch.float32)
            trainer = build_trainer(load_config("sdxl_dpo_lora_24gb.yaml", settings))
        else:
            save_quarter_sd(home / "model")
            trainer = build_trainer(
                load_config("sd15_dpo_lora.yaml", [*settings, "model.gradient_checkpointing=false"])
            )
        device, backbone = trainer.accelerator.device, trainer.backbone
        picture = torch.rand(1, 3, options.resolution, options.resolution, device=device)
        batch = trainer.data.batch([(0, 0)]).to(device)
        rows, when = batch.condition.expand(batch.members)[:1], torch.full((1,), 0.5, device=device)
        with torch.no_grad():
            parts = {
                "network": flops(lambda: backbone.view("policy")(batch.x0[0, :1], when, rows)),
                "picture encoder": flops(lambda: backbone.posterior(picture)),
                "text encoder": flops(lambda: backbone.text(["a picture"])),
            }
        checkpointed = trainer.config.model.gradient_checkpointing
        step_flops = flops(trainer.train_step)
        if checkpointed:  # the second forward of the policy is no work of the model
            step_flops -= 2 * options.groups * parts["network"]
        seconds = []
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(options.steps):
            started = clock(device)
            trainer.train_step()
            seconds.append(clock(device) - started)
        rate = matmul_rate(device, next(backbone.network.parameters()).dtype)
        activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
        with torch.profiler.profile(activities=activities) as profile:
            trainer.train_step()
    step = statistics.median(seconds)
    print(f"{options.model}, {options.resolution} px, {options.groups} pairs, {device}, {options.threads} thread(s)")
    print("for one sample: " + ", ".join(f"{name} {value / 1e9:.1f} GFLOP" for name, value in parts.items()))
    print(f"a step: {step_flops / 1e12:.3f} TFLOP in {step:.3f} s = {step_flops / step / 1e12:.3f} TFLOP/s")
    print(f"a matrix product: {rate / 1e12:.3f} TFLOP/s; utilisation {step_flops / step / rate:.0%}")
    if on_gpu:
        print(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    print(table(profile, on_gpu))


def table(profile: Any, on_gpu: bool) -> str:
    """The ten operations that take longest by themselves."""
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, time_of))
    whole = sum(getattr(event, time_of) for event in events)
    lines = [f"{getattr(event, time_of) / whole:6.1%}  {event.count:5d} x  {event.key}" for event in events[:10]]
    return "\n".join(["where the time of a step goes (operations by themselves):", *lines])


if __name__ == "__main__":
    main()
