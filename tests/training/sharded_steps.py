"""What test_sharding.py runs in two processes, and in one: a few steps of each case, and what came of them.

python -m tests.training.sharded_steps HOME CASE..., under torchrun.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from diffalign.config import RunConfig, parse_config
from diffalign.training.build_trainer import build_trainer
from diffalign.training.loop import HeldOutSamples
from diffalign.training.offline import OfflineTrainer
from diffalign.training.processes import part
from diffalign.training.sharding import gathered
from tests.training.tiny import tiny_settings

LORA = {"rank": 3, "alpha": 3}  # 3 rows are no halves
FULL = {"train": "full", "lora": {}}
GENTLE = {"learning_rate": 1e-3, "epsilon": 1e-3}  # else Adam makes steps of rounding errors where gradients are near 0
SMALL = GENTLE | {"learning_rate": 1e-4}
FLOW = {"family": "sd3", "objective": {"name": "flow_dpo"}}

# sections; training.groups are of one process, and the one that is alone takes twice as many
CASES: dict[str, dict[str, Any]] = {
    "lora-ema": {"model": {"lora": LORA}, "training": {"ema_decay": 0.5}},
    "kto-bank-two-passes": {
        "objective": {"name": "diffusion_kto", "beta": 500.0},
        "training": {"reference_bank": 1, "two_pass": True, "max_batch": 2, "accumulation": 2, "groups": 1},
    },
    # processes draw other times, and all must call the network equally often
    "lora-inverted": {"model": {"lora": LORA}, "training": {"noise": {"name": "inversion", "steps": 4}}},
    "full-ema-accumulated": {
        "model": FULL,
        "optimizer": SMALL,
        "training": {"ema_decay": 0.5, "accumulation": 2, "groups": 1, "max_batch": 1},
    },
    "sd3-checkpointed-accumulated": FLOW
    | {"model": {"gradient_checkpointing": True}, "training": {"accumulation": 2, "groups": 1}},
    "sd3-full-clipped": FLOW | {"model": FULL, "optimizer": SMALL | {"max_grad_norm": 0.1}},
}
SAMPLES = {
    "samples": {"every": 1, "count": 3},
    "evaluation": {"prompts": "zoo://shapes-sd/held_out", "sampler": {"steps": 2}},
}
PROMPTS = ["a red circle", "two blue squares", "a green triangle"]


def case_config(home: Path, case: str, processes: int) -> RunConfig:
    sections = dict(CASES[case])
    training = {"steps": 2, "groups": 2, "threads": 1} | sections.pop("training", {})
    training |= {"processes": processes, "sharding": "fsdp2"} if processes > 1 else {"groups": 2 * training["groups"]}
    sampler = "flow_euler" if sections.get("family") == "sd3" else "ddim"
    evaluation = SAMPLES["evaluation"] | {"sampler": {"name": sampler, "steps": 2}}
    sections = {"optimizer": GENTLE} | sections
    settings = tiny_settings(home, **sections, training=training, samples=SAMPLES["samples"], evaluation=evaluation)
    return parse_config(settings)


def steps_of(home: Path, config: RunConfig) -> tuple[OfflineTrainer, dict[str, Any], dict[str, torch.Tensor]]:
    """The trainer after all steps, its figures, and its tensors: weights by view, and held-out pictures."""
    trainer = build_trainer(config)
    pieces = [each for each in trainer.backbone.network.parameters() if isinstance(each, DTensor)]
    pieces += [each for network in trainer.backbone.kept_networks() for each in network.parameters()]
    local = sum(each.to_local().numel() if isinstance(each, DTensor) else each.numel() for each in pieces)
    whole = sum(each.numel() for each in pieces)
    metrics = [trainer.train_step().metrics for _ in range(config.training.steps)]
    tensors = {
        f"{view}.{name}": tensor.clone()
        for view in dict.fromkeys(["policy", trainer.final_view])
        for name, tensor in gathered(trainer.backbone.state(view), keep=True).items()
    }
    tensors["pictures"] = HeldOutSamples(config, trainer, home, PROMPTS).draw()
    total = sum(each.numel() for each in trainer.backbone.network.parameters())
    total += sum(each.numel() for network in trainer.backbone.kept_networks() for each in network.parameters())
    return trainer, {"metrics": metrics, "local": local, "whole": whole, "total": total}, tensors


def main(home: Path, cases: list[str]) -> None:
    for case in cases:
        trainer, figures, tensors = steps_of(home, case_config(home, case, 2))
        rank = trainer.accelerator.process_index
        (home / f"{case}-{rank}.json").write_text(json.dumps(figures))
        if rank == 0:
            save_file(tensors, home / f"{case}.safetensors")
        trainer.accelerator.wait_for_everyone()
    part(trainer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
