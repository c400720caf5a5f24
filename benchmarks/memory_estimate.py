"""The memory estimate of `diffalign check --memory` against what steps really take, on the CPU.

    python benchmarks/memory_estimate.py             # tiny zoo models, and a random UNet of 138 M parameters at 160 pixels

Every case runs in a process of its own and prints the estimate of the training stage, MB:
- tensors: the most that real tensors held in the second step, entered in the ledger that the estimate keeps of fake ones;
- resident: the most resident memory in the second step, above what the process had before the model was built, for the
  models that are large beside it. It has what operators take and give back besides, and the allocator's rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from diffalign.config import RunConfig, load_config
from diffalign.training.build_trainer import build_trainer
from diffalign.training.dry_run import Use, enter_network, enter_parts
from diffalign.training.memory import MemoryEstimator, example_batch
from diffalign.training.memory_ledger import MemoryLedger
from diffalign.training.offline import OfflineTrainer
from diffalign.zoo import locate

PAGE = resource.getpagesize()
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
TRAINED = ("lora", "full")
CASES = [
    (model, trained, checkpointing)
    for model in ("shapes-sd", "shapes-sd3", "middle")
    for trained in TRAINED
    for checkpointing in (False, True)
]


def save_middle(folder: Path) -> Path:
    """A random UNet in the layout of SD 1.5 around the zoo's autoencoder and text encoder; and a pair of pictures in it."""
    zoo = StableDiffusionPipeline.from_pretrained(locate("zoo://shapes-sd"), safety_checker=None)
    torch.manual_seed(0)
    zoo.register_modules(
        unet=UNet2DConditionModel(
            sample_size=40,
            block_out_channels=(128, 256, 512, 512),
            cross_attention_dim=zoo.unet.config.cross_attention_dim,
            attention_head_dim=8,
        )
    )
    zoo.save_pretrained(folder)
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (160, 160), (90 * number, 60, 30)).save(folder / name)
    (folder / "metadata.jsonl").write_text(
        json.dumps({"prompt": "grey", "chosen": "a.png", "rejected": "b.png"}) + "\n"
    )
    return folder


def config_of(model: str, trained: str, checkpointing: bool, folder: Path, more: Sequence[str] = ()) -> RunConfig:
    flow = model == "shapes-sd3"
    path = str(folder / model) if model == "middle" else f"zoo://{model}"
    groups = 1 if model == "middle" else 8
    return load_config(
        f"quickstart/{'flow_dpo' if flow else 'diffusion_dpo'}.yaml",
        [
            f"folder={folder}",
            "device=cpu",
            f"model={{family: {'sd3' if flow else 'sd'}, path: '{path}', train: {trained}}}",
            f"model.gradient_checkpointing={str(checkpointing).lower()}",
            *(["model.max_sequence_length=1"] if flow else []),
            *([f"data={{path: '{path}'}}"] if model == "middle" else []),
            f"training.groups={groups}",
            "training.threads=1",
            "samples.every=null",
            *more,
        ],
    )


def prepared(config: RunConfig) -> OfflineTrainer:
    """A trainer that is given the estimate's batch at every step, after its first step."""
    torch.set_num_threads(1)
    trainer = build_trainer(config)
    leaves: dict[str, Tensor] = {name: leaf[0] for name, leaf in trainer.backbone.text(["a prompt"]).items()}
    trainer._micro_batch = lambda number: example_batch(config, trainer.backbone, leaves)  # type: ignore[method-assign]
    trainer.train_step()
    return trainer


def tensors_of_a_step(trainer: OfflineTrainer) -> Use:
    """What real tensors hold at the peak of one step."""
    backbone, ledger = trainer.backbone, MemoryLedger()
    enter_network(ledger, backbone)
    enter_parts(ledger, getattr(backbone.weights, "copies", {}), "reference")
    states = trainer._optimizer.state_dict()["state"].values()
    ledger.add([each for state in states for each in state.values() if isinstance(each, Tensor)], "optimizer")
    hooks = ledger.add_gradients(backbone.trained_parameters())
    ledger.mark()
    with ledger.watch():
        trainer.train_step()
    for hook in hooks:
        hook.remove()
    return ledger.peak


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def resident_peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def measure(model: str, trained: str, checkpointing: bool, folder: Path) -> dict[str, float]:
    config = config_of(model, trained, checkpointing, folder)
    before = resident()
    trainer = prepared(config)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    trainer.train_step()
    most = resident_peak() - before
    tensors = sum(tensors_of_a_step(trainer).values())
    del trainer
    estimate = MemoryEstimator("cpu")(config).tensors("training")
    return {"estimate": estimate / 1e6, "tensors": tensors / 1e6, "resident": most / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["shapes-sd", "shapes-sd3", "middle"])
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        model, trained, checkpointing, folder = options.case
        print(json.dumps(measure(model, trained, checkpointing == "True", Path(folder))))
        return
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        if "middle" in options.models:
            save_middle(Path(folder) / "middle")
        for case in CASES:
            if case[0] not in options.models:
                continue
            command = [sys.executable, __file__, "--case", *map(str, case), folder]
            environment = os.environ | ALLOCATOR
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            seen = ["tensors", "resident"] if case[0] == "middle" else ["tensors"]
            ratios = {name: found["estimate"] / found[name] for name in seen}
            worst = max([worst, *(abs(ratio - 1) for ratio in ratios.values())])
            name = f"{case[0]} {case[1]}{' checkpointing' if case[2] else ''}"
            said = ", ".join(f"{key} {found[key]:.1f} (estimate / it: {ratio:.3f})" for key, ratio in ratios.items())
            print(f"{name}: estimate {found['estimate']:.1f}, {said}", flush=True)
    print(f"furthest from 1: {worst:.3f}")
    raise SystemExit(worst > 0.15)


if __name__ == "__main__":
    main()
