"""Train `shapes-sd` from nothing: a StableDiffusionPipeline in noise prediction over the shapes autoencoder.

    python -m makers.shapes_vae --out build/shapes-vae
    python -m makers.shapes_sd --vae build/shapes-vae --out build/sd-1                          # colours and shapes
    python -m makers.shapes_sd --vae build/shapes-vae --start build/sd-1 --out build/sd-2 --time-shift 4 \\
        --steps 1600 --stop 1600 --learning-rate 1e-3 --scenes 40000 --seed 1
    python -m makers.shapes_sd --vae build/shapes-vae --start build/sd-2 --out build/shapes-sd --time-shift 2 \\
        --most-weight 50 --steps 1400 --stop 1000 --learning-rate 1.2e-3 --scenes 40000 --seed 2    # positions

About 50, 16 and 10 minutes of one CPU thread. Plain noise errors teach little of a scene's layout, which is decided where
there is almost no signal; the last phase weighs them as a v-prediction would. Then the preference set is drawn, at
guidance 1, where the model also errs in colours and shapes, and the model is measured:

    python -m makers.shapes_preferences --family sd --model build/shapes-sd --captions 1400 --guidance-scale 1 \\
        --out build/shapes-sd/preferences.safetensors
    python -m makers.shapes_card --family sd --model build/shapes-sd --guidance-scale 1 --minutes 76 --maker ...
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from diffalign.denoising import shift_time
from makers.shapes_denoiser import encode_scenes, measure, save_half, train, write_quality
from makers.shapes_text import LENGTH, build_encoder, build_tokenizer

log = logging.getLogger("makers.shapes_sd")
WIDTH = 96
SAMPLING = {"num_inference_steps": 20, "guidance_scale": 2.0}


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3600, help="of the learning rate schedule")
    parser.add_argument("--stop", type=int, default=3600, help="the step after which training ends")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=60_000)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, help="go on from this pipeline instead of from nothing")
    parser.add_argument("--time-shift", type=float, default=1.0, help="more noise in training when above 1")
    parser.add_argument(
        "--most-weight",
        type=float,
        default=1.0,
        help="weigh errors by 1 / abar up to this (the v-prediction's weight): 1 is the plain noise error, which says "
        "little about the layout, because that is decided where there is little signal",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    vae = AutoencoderKL.from_pretrained(options.vae)
    tokenizer = build_tokenizer()
    scheduler = build_scheduler()
    modules: dict[str, nn.Module] = {"unet": build_unet(), "text_encoder": build_encoder(tokenizer, WIDTH, 2)}
    if options.start is not None:
        before = StableDiffusionPipeline.from_pretrained(options.start, torch_dtype=torch.float32, safety_checker=None)
        for name, module in modules.items():
            module.load_state_dict(getattr(before, name).state_dict())
    log.info("parameters %s", {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()})

    def loss_of(latents: Tensor, texts: Sequence[str], generator: torch.Generator) -> Tensor:
        t = shift_time(torch.rand(len(latents), generator=generator), options.time_shift)
        index = (t * scheduler.config.num_train_timesteps).long()
        noise = torch.randn(latents.shape, generator=generator)
        tokens = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        states = modules["text_encoder"](tokens.input_ids)[0]
        predicted = modules["unet"](scheduler.add_noise(latents, noise, index), index, states).sample
        weight = (1 / scheduler.alphas_cumprod[index]).clamp(max=options.most_weight)
        return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()

    def keep(step: int, average: dict[str, nn.Module]) -> None:
        pipeline = StableDiffusionPipeline(
            vae=vae,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **average,
        )
        folder = options.out if step == options.stop else options.out.with_name(f"{options.out.name}-{step}")
        save_half(pipeline, folder)
        quality = measure(pipeline, 128, seed=1000, sheet=folder / "sheet.png", **SAMPLING)
        log.info("step %d %s", step, quality)
        write_quality(folder, {"step": step, **quality})

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


if __name__ == "__main__":
    main()
