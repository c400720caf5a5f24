"""Our training step against those of scripts without caches, in one process, taken in turns; and the memory of each.

    python benchmarks/paper_way.py                   # SD1.5 at a quarter of its width, 256 pixels, 2 pairs, one thread

All do Diffusion-DPO on a LoRA of the same random model. The scripts' steps keep a second copy of the network as the
reference and encode pictures and captions anew in every step; their pictures are in memory as tensors beforehand (scripts
read them in worker processes). "together" sends winners and losers through the networks as one batch, as the authors'
code of Diffusion-DPO does (SalesforceAIResearch/DiffusionDPO, train.py); "apart" one after the other. Ours reads cached
latents and text states, and the reference is the same network without its adapter.

The first figures are the scripts' / ours in seconds of a step, the median over neighbouring steps with its quartiles. The
others are the most resident memory during steps beyond what the process had before it loaded a model, each way in a
process of its own.
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
from diffalign.training.build_trainer import build_trainer

LIMIT = 1.3  # of "apart", what the project promises; exit code 1 below it
BETA = 5000.0
WAYS = ("ours", "together", "apart")


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


def script_step(home: Path, groups: int, *, apart: bool) -> Callable[[], object]:
    """Without caches, and with a second copy of the network."""
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
        network: torch.nn.Module, noised: torch.Tensor, index: torch.Tensor, states: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """[2, groups], of winners and losers that stand one behind the other."""
        parts = [(noised, index, states)]
        if apart:
            parts = list(zip(noised.chunk(2), index.chunk(2), states.chunk(2), strict=True))
        told = [network(x, t, encoder_hidden_states=text, return_dict=False)[0] for x, t, text in parts]
        return (torch.cat(told) - noise).square().mean((1, 2, 3)).reshape(2, groups)

    def step() -> None:
        chosen = torch.randint(len(rows), (groups,), generator=generator)
        with torch.no_grad():
            both = 2 * torch.cat([each[chosen] for each in pictures.values()]) - 1
            encoded = [vae.encode(part).latent_dist.sample() for part in (both.chunk(2) if apart else [both])]
            latents = torch.cat(encoded) * vae.config.scaling_factor
            tokens = tokenizer(
                [rows[number]["prompt"] for number in chosen.tolist()],
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            )
            states = text_encoder(tokens.input_ids)[0].repeat(2, 1, 1)
        noise = torch.randn(latents[:groups].shape, generator=generator).repeat(2, 1, 1, 1)
        index = torch.randint(1000, (groups,), generator=generator).repeat(2)
        noised = pipeline.scheduler.add_noise(latents, noise, index)
        policy = errors(unet, noised, index, states, noise)
        with torch.no_grad():
            frozen = errors(reference, noised, index, states, noise)
        gain = frozen - policy
        loss = -F.logsigmoid(0.5 * BETA * (gain[0] - gain[1])).mean()
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


def step_of(way: str, home: Path, options: argparse.Namespace) -> Callable[[], object]:
    if way == "ours":
        return our_step(home, options.groups, options.threads)
    return script_step(home, options.groups, apart=way == "apart")


def peak(way: str, home: Path, options: argparse.Namespace) -> float:
    """MB that the way's process takes at most in its steps, over what it has with its libraries alone."""
    before = resident()
    step = step_of(way, home, options)
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
        steps = {way: step_of(way, home, options) for way in WAYS}
        for step in steps.values():
            step()
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(options.steps):
            for way in WAYS[:: -1 if number % 2 else 1]:  # in turns, so that a drift of the machine hits all
                taken[way].append(timed(steps[way]))
        memory = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--groups", str(options.groups), "--threads", str(options.threads)]
            done = subprocess.run([*command, "--memory-of", way, folder], capture_output=True, text=True, check=True)
            memory[way] = json.loads(done.stdout.splitlines()[-1])
    print(f"{options.groups} pairs, {options.threads} thread(s), {options.steps} steps each, in turns")
    ratio = {}
    for way in WAYS:
        print(f"{way}: {statistics.median(taken[way]):.2f} s a step, peak memory {memory[way]:.0f} MB")
    for way in WAYS[1:]:
        ratios = [theirs / mine for mine, theirs in zip(taken["ours"], taken[way], strict=True)]
        low, ratio[way], high = statistics.quantiles(ratios, n=4)
        print(f"{way} / ours: median {ratio[way]:.2f}, quartiles {low:.2f} to {high:.2f}")
    if ratio["apart"] < LIMIT or memory["ours"] >= min(memory["apart"], memory["together"]):
        raise SystemExit(f"less than {LIMIT:.1f} times as fast as apart, or more memory")


if __name__ == "__main__":
    main()
