"""Train `blocks-volume` from nothing: a flow over 16^3 occupancy (+1 filled, -1 empty), told what to make by a caption.

    python -m makers.blocks_all blocks-volume     # in two phases, with the card: see blocks_recipes.py

About 30 minutes of one CPU thread. Muon trains the matrices of the transformer's blocks, AdamW all else. Of every caption
some training objects stand and some topple: what alignment can change.

Every `--keep-every` steps the state goes to the file OUT-state.pt, from which a later call goes on.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

from diffalign.backbones import VolumePipeline
from diffalign.backbones.volume_network import SparseStructureFlowModel
from makers.blocks_objects import SIDE, captions, draw_object, is_held_out
from makers.shapes_denoiser import plain_parser, save_half, start
from makers.shapes_text import build_encoder, build_word_tokenizer
from makers.training_state import average_into, load_state, save_state

log = logging.getLogger("makers.blocks_volume")
LENGTH = 22  # tokens: the longest caption has 19 words
TEXT_WIDTH, TEXT_LAYERS = 64, 2
WIDTH, HEADS, LAYERS, PATCH = 144, 3, 5, 4
TIME_MEAN, TIME_STD = (
    1.0,
    1.0,
)  # logit-normal, as TRELLIS: cells agree with their neighbours, so much noise hides little
SHIFT = 3.0  # of the sampling times, TRELLIS' rescale_t
DROPPED = 0.1  # captions replaced by the empty one, for classifier-free guidance
FALL = 0.3  # of all steps


def build_tokenizer() -> CLIPTokenizer:
    """One token for each word of the captions."""
    return build_word_tokenizer(Counter(re.findall(r"[a-z]+", " ".join(captions()).lower())), LENGTH)


def build_transformer(text_width: int, width: int, heads: int, layers: int) -> SparseStructureFlowModel:
    return SparseStructureFlowModel(
        resolution=SIDE,
        in_channels=1,
        out_channels=1,
        model_channels=width,
        cond_channels=text_width,
        num_blocks=layers,
        num_heads=heads,
        patch_size=PATCH,
        share_mod=True,
        qk_rms_norm=True,
    )


@dataclass(frozen=True)
class Bank:
    """Training objects: cells [objects, 1, 16, 16, 16] of -1 and +1 (int8), and which caption each has."""

    cells: Tensor
    index: Tensor
    texts: list[str]


def draw_bank(count: int, seed: int, standing: float = 0.5) -> Bank:
    """So many objects of the captions that are not held out, in turn; of each caption that share stands."""
    rng = np.random.default_rng(seed)
    shapes = {text: shape for text, shape in captions().items() if not is_held_out(text)}
    texts = list(shapes)
    index = np.arange(count) % len(texts)
    cells = np.empty((count, 1, SIDE, SIDE, SIDE), np.int8)
    for number, at in enumerate(index):
        turn = number // len(texts)
        stand = math.ceil((turn + 1) * standing) > math.ceil(turn * standing)
        grid = draw_object(shapes[texts[at]], rng, standing=stand)
        cells[number, 0] = np.where(grid, 1, -1)
    return Bank(torch.from_numpy(cells), torch.from_numpy(index), texts)


def build_optimizers(modules: dict[str, nn.Module], options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer's blocks, AdamW for everything else."""
    inner = [p for p in modules["transformer"].blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in inner}
    outer = [p for module in modules.values() for p in module.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=options.muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01),
    ]


def rate(step: int, steps: int) -> float:
    """Share of the full learning rate: up over 200 steps, flat, down to nothing at the end."""
    return min(1.0, (step + 1) / 200, (steps - step) / (FALL * steps))


def train(
    modules: dict[str, nn.Module],
    average: dict[str, nn.Module],
    tokens: Tensor,
    empty: Tensor,
    bank: Bank,
    options: argparse.Namespace,
    state_path: Path,
) -> None:
    """Train in place; `average` becomes the moving average over about the last thousand steps.

    Args:
        tokens: [captions, length]; `empty`: [length], the empty one.
    """
    generator = torch.Generator().manual_seed(options.seed)
    optimizers = build_optimizers(modules, options)
    bases = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [p for module in modules.values() for p in module.parameters()]
    parts = {"modules": modules, "average": average}
    first = 0
    source = state_path if state_path.is_file() else options.start
    if source is not None:
        first = load_state(source, parts, optimizers, generator)
        log.info("on from step %d", first)
    started, used, running = time.monotonic(), time.process_time(), 0.0
    for step in range(first, options.stop):
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, bases, strict=True):
            group["lr"] = base * rate(step, options.steps)
        rows = torch.randint(len(bank.cells), (options.batch,), generator=generator)
        dropped = torch.rand(options.batch, generator=generator) < DROPPED
        asked = torch.where(dropped[:, None], empty, tokens[bank.index[rows]])
        clean = bank.cells[rows].float()
        places = (torch.arange(options.batch) + torch.rand(options.batch, generator=generator)) / options.batch
        t = torch.sigmoid(TIME_MEAN + TIME_STD * torch.special.ndtri(places))  # one from each part of the law
        noise = torch.randn(clean.shape, generator=generator)
        x_t = torch.lerp(clean, noise, t[:, None, None, None, None])
        # the fused attention's backward pass is slow on the CPU
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            states = modules["text_encoder"](asked).last_hidden_state
            predicted = modules["transformer"](x_t, t * 1000, states).float()
            loss = (predicted - (noise - clean)).square().mean()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average_into(average, modules, min(0.999, (step + 1) / (step + 20)))
        running = loss.item() if step == first else 0.99 * running + 0.01 * loss.item()
        done = step + 1
        if done % 100 == 0:
            log.info(
                "step %d loss %.4f, %.0f s, %.0f s of CPU",
                done, running, time.monotonic() - started, time.process_time() - used,
            )  # fmt: skip
        if done % options.keep_every == 0 or done == options.stop:
            save_state(state_path, parts, optimizers, generator, done)


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="the state to begin with, another run's -state.pt")
    parser.add_argument("--standing", type=float, default=0.5, help="share of the training objects that stand")
    parser.add_argument("--objects", type=int, default=32_000)
    parser.add_argument("--steps", type=int, default=2400, help="of the learning rate schedule")
    parser.add_argument("--stop", type=int, default=2400, help="the step after which training ends")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of AdamW")
    parser.add_argument("--muon-rate", type=float, default=5e-3)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--keep-every", type=int, default=250)
    return parser


def main() -> None:
    options = start(parser())
    bank = draw_bank(options.objects, options.seed, options.standing)
    log.info(
        "%d objects of %d captions, %.3f filled", len(bank.cells), len(bank.texts), (bank.cells > 0).float().mean()
    )
    tokenizer = build_tokenizer()
    tokens = tokenizer(["", *bank.texts], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    modules: dict[str, nn.Module] = {
        "transformer": build_transformer(TEXT_WIDTH, options.width, options.heads, options.layers),
        "text_encoder": build_encoder(tokenizer, TEXT_WIDTH, TEXT_LAYERS),
    }
    log.info("parameters %s", {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()})
    average = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}
    state_path = options.out.with_name(options.out.name + "-state.pt")
    train(modules, average, tokens[1:], tokens[0], bank, options, state_path)
    pipeline = VolumePipeline(tokenizer=tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT), **average)
    save_half(pipeline, options.out)


if __name__ == "__main__":
    main()
