"""The table of docs/memory.md: what a card must have free for one pair at a time, by `diffalign check --memory`, in GB.

    python benchmarks/memory_table.py                # minutes; no network, no GPU, 1 GB of memory

AdamW in float32, mixed_precision bf16, frozen weights in bf16, accumulation, encode_batch 1. "narrow" is full fine-tuning
with adamw8bit and the frozen copy in bf16.
"""

from __future__ import annotations

import argparse

from diffalign.config import RunConfig, load_config
from diffalign.training.memory import MemoryEstimator

MODELS = {  # family, checkpoint, pixels, the config whose objective and data go with it
    "SD 1.5": ("sd", "stable-diffusion-v1-5/stable-diffusion-v1-5", 512, "sd15_dpo_lora.yaml"),
    "SDXL": ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", 1024, "sdxl_dpo.yaml"),
    "SD 3.5 medium": ("sd3", "stabilityai/stable-diffusion-3.5-medium", 1024, "sd3_dpo.yaml"),
    "FLUX.1-dev": ("flux", "black-forest-labs/FLUX.1-dev", 1024, "flux_dpo_lora.yaml"),
}
WAYS: dict[str, tuple[str, list[str]]] = {
    "LoRA": ("train: lora, gradient_checkpointing: false", []),
    "LoRA, checkpointing": ("train: lora, gradient_checkpointing: true", []),
    "LoRA, checkpointing, 4bit": ("train: lora, gradient_checkpointing: true, quantise: 4bit", []),
    "full, checkpointing": ("train: full, gradient_checkpointing: true", []),
    "full, checkpointing, narrow": (
        "train: full, gradient_checkpointing: true, reference: {precision: bf16}",
        ["optimizer.name=adamw8bit"],
    ),
}


def config_of(model: str, way: str) -> RunConfig:
    family, path, side, base = MODELS[model]
    section, more = WAYS[way]
    common = [
        f"model={{family: {family}, path: '{path}', precision: bf16, {section}}}",
        f"data.resolution={side}",
        "data.encode_batch=1",
        "training.groups=1",
        "training.mixed_precision=bf16",
        "training.ema_decay=null",
        "samples.every=null",
    ]
    return load_config(base, [*common, *more])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    print("| model, pixels | caching |", " | ".join(WAYS), "|")
    print("|---" * (len(WAYS) + 2) + "|")
    for model in options.models:
        estimator = MemoryEstimator("cuda")
        found = [estimator(config_of(model, way)) for way in WAYS]
        cells = [f"{each.needed('training') / 1e9:.1f}" for each in found]
        caching = f"{found[0].needed('caching') / 1e9:.1f}"
        print(f"| {model}, {MODELS[model][2]} | {caching} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
