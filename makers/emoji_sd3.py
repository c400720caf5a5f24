"""Train `emoji-sd3` from nothing: a StableDiffusion3Pipeline (linear flow) over the emoji autoencoder.

    python -m makers.emoji_sd3 --vae build/emoji-vae --out build/emoji-sd3

About 16 minutes of one CPU thread. It sees every emoji with its name. Muon trains the matrices of the transformer's blocks,
AdamW all else. Training ends at a third of the schedule, where a person recognises what is drawn and the drawing is still
rough: headroom for alignment. (At step 2500 it passes for the designers' own; `--stop 6500` goes to the end.)

Every `--keep-every` steps the state goes to the file OUT-state.pt, from which a later call goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import re
import time
from collections import Counter
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from makers.emoji_pictures import draw_emoji, emoji
from makers.emoji_vae import encode as encode_pictures
from makers.shapes_denoiser import plain_parser, save_half, start
from makers.shapes_sd3 import encode
from makers.shapes_text import build_projected_encoder, build_word_tokenizer
from makers.training_state import average_into, load_state, save_state

log = logging.getLogger("makers.emoji_sd3")
WIDTHS = {"text_encoder": 64, "text_encoder_2": 32}
LENGTH = 14  # tokens of the longest name, and its begin and end
HEADS, HEAD_WIDTH, LAYERS = 2, 48, 5
DROPPED = 0.1  # names replaced by the empty one, for classifier-free guidance
FALL = 0.25  # of all steps


def build_tokenizer(names: list[str]) -> CLIPTokenizer:
    """One token for each word of the names, as CLIP's tokenizer splits them."""
    words = Counter(word for name in names for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", name))
    return build_word_tokenizer(words, LENGTH)


def build_transformer(channels: int, heads: int, head_width: int, layers: int) -> SD3Transformer2DModel:
    """A new transformer whose blocks change nothing at first: modulations and the last layer start from zero."""
    text = sum(WIDTHS.values())
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        attention_head_dim=head_width,
        num_attention_heads=heads,
        joint_attention_dim=text,
        caption_projection_dim=heads * head_width,
        pooled_projection_dim=text,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    still = [block.norm1.linear for block in transformer.transformer_blocks]
    still += [block.norm1_context.linear for block in transformer.transformer_blocks]
    for layer in (*still, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer


def build_optimizers(modules: dict[str, nn.Module], options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer's blocks, AdamW for embeddings, biases, norms and the text encoders."""
    blocks = {id(p) for p in modules["transformer"].transformer_blocks.parameters() if p.ndim == 2}
    parameters = [p for module in modules.values() for p in module.parameters()]
    inner = [p for p in parameters if id(p) in blocks]
    outer = [p for p in parameters if id(p) not in blocks]
    if options.optimizer == "adamw":
        return [torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)]
    return [
        torch.optim.Muon(inner, lr=options.muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01),
    ]


def rate(step: int, steps: int) -> float:
    """Share of the full learning rate: up over 200 steps, flat, down to nothing over the last quarter."""
    return min(1.0, (step + 1) / 200, (steps - step) / (FALL * steps))


def train(
    modules: dict[str, nn.Module],
    average: dict[str, nn.Module],
    tokens: Tensor,
    empty: Tensor,
    latents: Tensor,
    options: argparse.Namespace,
    state_path: Path,
) -> None:
    """Train in place; `average` becomes the moving average over about the last thousand steps.

    Args:
        tokens: [emoji, length] names; `empty`: [length], the empty one.
        latents: [emoji, channels, 8, 8].
    """
    generator = torch.Generator().manual_seed(options.seed)
    optimizers = build_optimizers(modules, options)
    bases = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [p for module in modules.values() for p in module.parameters()]
    parts = {"modules": modules, "average": average}
    first = 0
    if state_path.is_file():
        first = load_state(state_path, parts, optimizers, generator)
        log.info("on from step %d", first)
    started, used, running = time.monotonic(), time.process_time(), 0.0
    for step in range(first, options.stop):
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, bases, strict=True):
            group["lr"] = base * rate(step, options.steps)
        rows = torch.randint(len(latents), (options.batch,), generator=generator)
        dropped = torch.rand(options.batch, generator=generator) < DROPPED
        asked = torch.where(dropped[:, None], empty, tokens[rows])
        clean = latents[rows]
        t = torch.sigmoid(torch.randn(options.batch, generator=generator))  # logit-normal(0, 1), as SD3
        noise = torch.randn(clean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            states, pooled = encode(modules, asked, 1)
            predicted = modules["transformer"](
                hidden_states=torch.lerp(clean, noise, t[:, None, None, None]),
                timestep=t * 1000,
                encoder_hidden_states=states,
                pooled_projections=pooled,
            ).sample.float()
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
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6500, help="of the learning rate schedule")
    parser.add_argument("--stop", type=int, default=2000, help="the step after which training ends")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of AdamW")
    parser.add_argument("--muon-rate", type=float, default=5e-3)
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--head-width", type=int, default=HEAD_WIDTH)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--keep-every", type=int, default=500)
    return parser


def main() -> None:
    options = start(parser())
    chosen = emoji()
    names = [one.name for one in chosen]
    vae = AutoencoderKL.from_pretrained(options.vae)
    latents = encode_pictures(vae, draw_emoji(chosen).float() / 127.5 - 1)
    tokenizer = build_tokenizer(names)
    tokens = tokenizer(["", *names], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    modules: dict[str, nn.Module] = {
        "transformer": build_transformer(latents.shape[1], options.heads, options.head_width, options.layers),
        **{name: build_projected_encoder(tokenizer, width, 2) for name, width in WIDTHS.items()},
    }
    log.info("parameters %s", {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()})
    average = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}
    train(
        modules, average, tokens[1:], tokens[0], latents, options, options.out.with_name(options.out.name + "-state.pt")
    )
    pipeline = StableDiffusion3Pipeline(
        vae=vae,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        text_encoder_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        **average,
    )
    save_half(pipeline, options.out)
    for tokenizer_file in options.out.glob("tokenizer*/tokenizer.json"):  # half of it is indentation
        content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        tokenizer_file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main()
