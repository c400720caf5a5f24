"""Our training step against the way of the papers' scripts, in one process, taken in turns; and the memory of each.

    python benchmarks/paper_way.py                   # SD1.5 at a quarter of its width, 256 pixels, 2 pairs, one thread

Both do Diffusion-DPO on a LoRA of the same random model. The paper's way keeps a second copy of the network as the
reference, encodes pictures and captions anew in every step, and sends winners and losers through the networks apart. Its
pictures are in memory as tensors beforehand (its scripts read them in worker processes). Ours reads cached latents and
text states, and the reference is the same network without its adapter.

The first figure is the paper's way / ours in seconds of a step, the median over pairs of neighbouring steps with its
quartiles. The second is the most resident memory during steps beyond what the process had before it loaded a model, each
way in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image
from quarter_sd import SIDE, save_pairs, save_quarter_sd
from two_passes import Peak, resident

from diffalign.config import load_config
from diffalign.training.processes import build_trainer

LIMIT = 1.3  # what the project promises; exit code 1 below it
BETA = 5000.0


def our_step(home: Path, groups: int, threads: int) -> Callable[[], object]:
    """The step of `diffalign train`; the caches are filled when this returns."""
    config = load_config(
        "sd15_dpo_lora.yaml",
        [
            f"folder={home / 'runs'}",
            "device=cpu",
            f"model.path={home / 'model'}",
            "model.precision=fp32",
            "model.gradient_checkpointing=false",
            f"data.path={home / 'pairs'}",
            f"data.resolution={SIDE}",
            "training.mixed_precision=no",
            f"training.groups={groups}",
            "training.accumulation=1",
            f"training.threads={threads}",
        ],
    )
    trainer = build_trainer(config)
    gc.collect()
    return trainer.train_step


def paper_step(home: Path, groups: int) -> Callable[[], object]:
    """As the scripts of Diffusion-DPO and its successors go about it, with LoRA."""
    pipeline = StableDiffusionPipeline.from_pretrained(home / "model", safety_checker=None)
    unet, vae, text_encoder, tokenizer = pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False)
    reference = copy.deepcopy(unet)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=targets, init_lora_weights="gaussian"))
    parameters = [each for each in unet.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    rows = [json.loads(line) for line in (home / "pairs" / "metadata.jsonl").read_text().splitlines()]
    pictures = {
        name: torch.stack([_pixels(home / "pairs" / row[name]) for row in rows]) for name in ("chosen", "rejected")
    }
    generator = torch.Generator().manual_seed(0)

    def errors(
        network: torch.nn.Module, noised: torch.Tensor, index: torch.Tensor, states: torch.Tensor
    ) -> torch.Tensor:
        return network(noised, index, encoder_hidden_states=states, return_dict=False)[0]

    def step() -> None:
        chosen = torch.randint(len(rows), (groups,), generator=generator)
        with torch.no_grad():
            latents = {
                name: vae.encode(2 * each[chosen] - 1).latent_dist.sample() * vae.config.scaling_factor
                for name, each in pictures.items()
            }
            tokens = tokenizer(
                [rows[number]["prompt"] for number in chosen.tolist()],
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            )
            states = text_encoder(tokens.input_ids)[0]
        noise = torch.randn(latents["chosen"].shape, generator=generator)
        index = torch.randint(1000, (groups,), generator=generator)
        gain = {}
        for name, each in latents.items():
            noised = pipeline.scheduler.add_noise(each, noise, index)
            error = (errors(unet, noised, index, states) - noise).square().mean((1, 2, 3))
            with torch.no_grad():
                frozen = (errors(reference, noised, index, states) - noise).square().mean((1, 2, 3))
            gain[name] = frozen - error
        loss = -F.logsigmoid(0.5 * BETA * (gain["chosen"] - gain["rejected"])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak(way: str, home: Path, options: argparse.Namespace) -> float:
    """MB that the way's process takes at most in its steps, over what it has with its libraries alone."""
    before = resident()
    step = our_step(home, options.groups, options.threads) if way == "ours" else paper_step(home, options.groups)
    step()
    with Peak() as seen:
        step()
        step()
    return seen.most - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        way, home = options.memory_of
        print(json.dumps(peak(way, Path(home), options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        save_quarter_sd(home / "model")
        save_pairs(home / "pairs", 4 * options.groups)
        ours, paper = our_step(home, options.groups, options.threads), paper_step(home, options.groups)
        ours(), paper()
        pairs = []
        for number in range(options.steps):
            if number % 2:  # in turns, so that a drift of the machine hits both
                first, second = timed(ours), timed(paper)
            else:
                second, first = timed(paper), timed(ours)
            pairs.append((first, second))
        memory = {}
        for way in ("ours", "paper"):
            command = [sys.executable, __file__, "--groups", str(options.groups), "--threads", str(options.threads)]
            done = subprocess.run([*command, "--memory-of", way, folder], capture_output=True, text=True, check=True)
            memory[way] = json.loads(done.stdout.splitlines()[-1])
    low, middle, high = statistics.quantiles([theirs / mine for mine, theirs in pairs], n=4)
    print(f"{options.groups} pairs, {options.threads} thread(s), {options.steps} steps each, in turns")
    mine, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"paper's way {theirs:.2f} s, ours {mine:.2f} s a step")
    print(f"paper's way / ours: median {middle:.2f}, quartiles {low:.2f} to {high:.2f}")
    print(f"peak memory: paper's way {memory['paper']:.0f} MB, ours {memory['ours']:.0f} MB")
    if middle < LIMIT or memory["ours"] >= memory["paper"]:
        raise SystemExit(f"less than {LIMIT:.1f} times the paper's way, or more memory")


if __name__ == "__main__":
    main()
