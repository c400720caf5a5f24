"""What the makers of the shapes models share: options, the latent bank, the training loop, the measurement, saving."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from diffalign.backbones import Backbone, load_backbone
from diffalign.rewards.scene import captions, check_scene, held_out_captions, is_held_out, parse_caption
from makers.shapes_vae import draw_scenes

log = logging.getLogger("makers.shapes_denoiser")
KIND_SHARES = {"single": 0.1, "count": 0.2, "both": 0.25, "relation": 0.45}


def plain_parser(doc: str | None, *, seed: int) -> argparse.ArgumentParser:
    """The options of every maker."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=seed)
    return parser


def denoiser_parser(
    doc: str | None, *, steps: int, stop: int, batch: int, scenes: int, learning_rate: float
) -> argparse.ArgumentParser:
    """The options of a denoiser's maker, with its own defaults."""
    parser = plain_parser(doc, seed=0)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps, help="of the learning rate schedule")
    parser.add_argument("--stop", type=int, default=stop, help="the step after which training ends")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--scenes", type=int, default=scenes)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    return parser


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the options; set up the log, the threads and torch's own generator, which new weights are drawn from."""
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    return options


def load_shapes(model: str) -> Backbone:
    """A shapes model, finished or just made, as diffalign sees it; its family stands in its pipeline's files."""
    sd3 = DiffusionPipeline.load_config(model)["_class_name"] == "StableDiffusion3Pipeline"
    return load_backbone("sd3", model, max_sequence_length=1) if sd3 else load_backbone("sd", model)


@dataclass(frozen=True)
class Bank:
    """Encoded training scenes: latents [scenes, 4, 8, 8] and a caption index for each."""

    latents: Tensor
    index: Tensor
    texts: list[str]


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, count: int, seed: int) -> Bank:
    """Render and encode `count` scenes of training captions."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(KIND_SHARES), count, p=list(KIND_SHARES.values()))
    pools = {kind: [text for text in captions(kind) if not is_held_out(text)] for kind in KIND_SHARES}
    texts = [str(rng.choice(pools[kind])) for kind in kinds]
    names = sorted(set(texts))
    numbers = {text: number for number, text in enumerate(names)}
    chunks = []
    for start in range(0, count, 256):
        chunks.append(vae.encode(draw_scenes(texts[start : start + 256], rng)).latent_dist.mean)
    return Bank(torch.cat(chunks), torch.tensor([numbers[text] for text in texts]), names)


def make_denoiser(
    options: argparse.Namespace,
    vae: AutoencoderKL,
    modules: dict[str, nn.Module],
    loss_of: Callable[[Tensor, Sequence[str], torch.Generator], Tensor],
    pipeline_of: Callable[[dict[str, nn.Module]], DiffusionPipeline],
    sampling: dict[str, object],
) -> None:
    """Encode scenes, train on them, and save a measured pipeline every 1000 steps and at the end."""

    def keep(step: int, average: dict[str, nn.Module]) -> None:
        pipeline = pipeline_of(average)
        folder = options.out if step == options.stop else options.out.with_name(f"{options.out.name}-{step}")
        save_half(pipeline, folder)
        quality = measure(pipeline, 128, seed=1000, sheet=folder / "sheet.png", **sampling)
        log.info("step %d %s", step, quality)
        (folder / "quality.json").write_text(json.dumps({"step": step, **quality}, indent=2) + "\n")

    log.info("parameters %s", {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()})
    bank = encode_scenes(vae, options.scenes, options.seed)
    log.info("%d scenes encoded, std %.3f", len(bank.latents), bank.latents.std())
    train(
        modules,
        loss_of,
        bank,
        steps=options.steps,
        stop=options.stop,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
        checkpoint_every=1000,
        on_checkpoint=keep,
    )


def train(
    modules: dict[str, nn.Module],
    loss_of: Callable[[Tensor, Sequence[str], torch.Generator], Tensor],
    bank: Bank,
    *,
    steps: int,
    stop: int,
    batch: int,
    learning_rate: float,
    seed: int,
    checkpoint_every: int,
    on_checkpoint: Callable[[int, dict[str, nn.Module]], None],
) -> None:
    """AdamW with warm-up and cosine decay over all modules together; an EMA copy goes to `on_checkpoint`.

    The schedule is one of `steps` steps; training ends after `stop` of them.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 200) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    average = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}
    started, running = time.monotonic(), 0.0
    for step in range(1, stop + 1):
        rows = torch.randint(len(bank.latents), (batch,), generator=generator)
        texts = [bank.texts[number] for number in bank.index[rows]]
        dropped = torch.rand(batch, generator=generator) < 0.1  # for classifier-free guidance
        texts = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
        loss = loss_of(bank.latents[rows], texts, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        _average_into(average, modules, decay=min(0.999, step / (step + 20)))
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0:
            log.info("step %d loss %.4f, %.2f s/step", step, running, (time.monotonic() - started) / step)
        if step % checkpoint_every == 0 or step == stop:
            on_checkpoint(step, average)


@torch.no_grad()
def _average_into(average: dict[str, nn.Module], modules: dict[str, nn.Module], decay: float) -> None:
    for name, module in modules.items():
        for kept, current in zip(average[name].parameters(), module.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)


def measure(
    pipeline: DiffusionPipeline, count: int, *, seed: int, sheet: Path | None = None, **options: object
) -> dict:
    """Share of held-out captions that the checker passes, and the mean graded score, over `count` captions."""
    pipeline.set_progress_bar_config(disable=True)
    texts = held_out_captions()[:count]
    strict, graded, pictures = [], [], []
    for start in range(0, count, 64):
        chunk = texts[start : start + 64]
        generator = torch.Generator().manual_seed(seed + start)
        drawn = pipeline(chunk, generator=generator, output_type="np", **options).images
        for text, picture in zip(chunk, (drawn * 255).round().astype(np.uint8), strict=True):
            verdict = check_scene(picture, parse_caption(text))
            strict.append(verdict.strict)
            graded.append(verdict.graded)
            pictures.append(picture)
    if sheet is not None:
        write_sheet(pictures[:48], sheet)
    return {"captions": count, "strict": float(np.mean(strict)), "graded": float(np.mean(graded)), **options}


def write_sheet(pictures: Sequence[np.ndarray], path: Path, columns: int = 8) -> None:
    """A contact sheet, each picture enlarged threefold."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + 2)))
    for number, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (number % columns * (width + 2), number // columns * (height + 2)))
    sheet.resize((sheet.width * 3, sheet.height * 3), Image.Resampling.NEAREST).save(path)


def save_half(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Save in half precision as safetensors: what ships."""
    copy.deepcopy(pipeline).to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for config in folder.glob("*/config.json"):  # diffusers notes the folder that a part was loaded from
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        config.write_text(json.dumps(content, indent=2) + "\n")
