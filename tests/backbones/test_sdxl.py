"""SDXL: what its UNet is told besides the text, and the numbers of diffusers' own pipeline."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, EDMDPMSolverMultistepScheduler, StableDiffusionXLPipeline

from diffalign.backbones import SDBackbone, SDXLBackbone, load_backbone
from diffalign.denoising import VP, Prediction, default_time, denoising_errors, draw_noise
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator
from diffalign.types import Condition
from tests.backbones.models import PROMPTS, diffusers_pictures, diffusers_pipeline, load, path_of, scenes

CLOSE = {"rtol": 1e-5, "atol": 2e-5}
CROPS = torch.tensor(
    [[[64, 96, 0, 8, 32, 32], [32, 32, 0, 0, 32, 32]], [[20, 31, 3, 0, 32, 32], [48, 32, 8, 0, 32, 32]]]
)


class Watched:
    """What a UNet is called with, call by call."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.inputs: list[tuple] = []
        self.told: list[dict] = []
        self.outputs: list[torch.Tensor] = []
        self._handle = unet.register_forward_hook(self._look, with_kwargs=True)

    def _look(self, _module, args, kwargs, output) -> None:
        self.inputs.append(args)
        self.told.append(kwargs)
        self.outputs.append(output[0])

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


# ---------------------------------------------------------------- the same numbers as the pipeline


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_one_denoising_step_is_the_pipelines(guidance):
    """The network is asked the same question, to the bit, and so answers the same."""
    backbone, pipeline = load("sdxl", lora=None), diffusers_pipeline("sdxl")
    with Watched(pipeline.unet) as theirs:
        told = {"num_inference_steps": 3, "guidance_scale": guidance}
        diffusers_pictures(pipeline, "sdxl", PROMPTS[:2], [1, 2], "latent", **told)
    condition = backbone.condition(PROMPTS[:2])
    if guidance != 1:
        condition = condition.unconditional().join(condition)
    for (x_t, index), answer in zip(theirs.inputs, theirs.outputs, strict=True):
        t = backbone.process.time_of(index.float()).expand(len(x_t))
        with torch.no_grad(), Watched(backbone.network) as ours:
            found = backbone.view("reference")(x_t, t, condition)
        torch.testing.assert_close(found, answer, rtol=0, atol=1e-6)
        mine, diffusers = ours.told[0], theirs.told[0]
        assert torch.equal(ours.inputs[0][1], index.float().expand(len(x_t)))
        assert torch.equal(mine["encoder_hidden_states"], diffusers["encoder_hidden_states"])
        for name in ("text_embeds", "time_ids"):
            assert torch.equal(mine["added_cond_kwargs"][name], diffusers["added_cond_kwargs"][name])


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"timestep_spacing": "trailing"},
        {"prediction_type": "v_prediction"},
        # the recipe of zero-terminal-SNR checkpoints: the first step has no signal at all
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ],
)
def test_whole_sampling_is_the_pipelines(changes, guidance):
    pipeline = diffusers_pipeline("sdxl")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
    told = {"num_inference_steps": 10, "guidance_scale": guidance}
    theirs = diffusers_pictures(pipeline, "sdxl", PROMPTS[:2], [5, 6], "latent", **told)
    generator = ImageGenerator.create(SDXLBackbone(pipeline), steps=10, guidance_scale=guidance)
    ours = next(generator.latents(PROMPTS[:2], [5, 6], view="reference"))
    assert theirs.isfinite().all() and theirs.abs().max() > 0.5
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_conventions():
    backbone = load("sdxl", lora=None)
    assert isinstance(backbone, SDBackbone) and isinstance(backbone.process, VP)
    assert backbone.prediction is Prediction.NOISE
    assert (backbone.resolution, backbone.sample_shape()) == (32, (4, 8, 8))
    # SDXL base names Euler's scheduler; its training times and DDIM's steps follow from the same settings
    assert backbone.process.index(backbone.times(4)).tolist() == [751, 501, 251, 1, 0]


def test_states_are_both_encoders_and_pooled_is_the_seconds():
    backbone = load("sdxl", lora=None)
    pipeline = backbone.pipeline
    ids = pipeline.tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        first = pipeline.text_encoder(ids, output_hidden_states=True)
        second = pipeline.text_encoder_2(ids, output_hidden_states=True)
    leaves = backbone.text(["a red circle"])
    expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    torch.testing.assert_close(leaves["states"], expected)
    torch.testing.assert_close(leaves["pooled"], second.text_embeds)


# ---------------------------------------------------------------- the two empty prompts


@pytest.mark.parametrize("zeros", [True, False])
def test_guidance_compares_with_what_the_checkpoint_says(zeros):
    pipeline = diffusers_pipeline("sdxl")
    pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
    backbone = SDXLBackbone(pipeline)
    null, encoded = backbone.condition(PROMPTS[:2]).null, backbone.text(["", ""])
    for name, leaf in null.items():
        torch.testing.assert_close(leaf, torch.zeros_like(leaf) if zeros else encoded[name])
    told = {"num_inference_steps": 3, "guidance_scale": 5.0}
    theirs = diffusers_pictures(pipeline, "sdxl", PROMPTS[:2], [5, 6], "latent", **told)
    generator = ImageGenerator.create(backbone, steps=3, guidance_scale=5.0)
    ours = next(generator.latents(PROMPTS[:2], [5, 6], view="reference"))
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_prompt_that_training_drops_is_encoded():
    """As in the Diffusion-DPO authors' code; zeros are for guidance alone."""
    assert load("sdxl", lora=None).text([""])["states"].abs().max() > 0


# ---------------------------------------------------------------- time ids


def _errors(backbone, condition, **options):
    x0 = torch.randn(2, 2, *backbone.sample_shape(), generator=torch.Generator().manual_seed(1))
    draw = draw_noise(x0, default_time(backbone.process), generator=torch.Generator().manual_seed(2))
    return denoising_errors(backbone.view("reference"), None, x0, condition, draw, **options).policy


def _told(backbone, crops):
    leaves = backbone.text(PROMPTS[:2]) | {"time_ids": crops.float()}
    return Condition(leaves, per_member=frozenset({"time_ids"}))


def test_each_member_of_a_pair_is_told_its_own_crop():
    backbone = load("sdxl", lora=None)
    with torch.no_grad(), Watched(backbone.network) as watched:
        _errors(backbone, _told(backbone, CROPS))
    time_ids = watched.told[0]["added_cond_kwargs"]["time_ids"]
    assert time_ids.dtype == torch.float32  # a bfloat16 has no 1023
    assert time_ids.tolist() == CROPS.flatten(0, 1).tolist()


def test_crops_change_the_errors_of_their_member_alone():
    backbone = load("sdxl", lora=None)
    plain = _errors(backbone, _told(backbone, CROPS))
    moved = CROPS.clone()
    moved[1, 0, :2] = torch.tensor([700, 900])
    changed = (_errors(backbone, _told(backbone, moved)) - plain).abs() > 1e-7
    assert changed.tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("max_batch", [1, 3])
def test_chunks_of_a_batch_keep_their_crops(max_batch):
    backbone = load("sdxl", lora=None)
    condition = _told(backbone, CROPS)
    torch.testing.assert_close(_errors(backbone, condition, max_batch=max_batch), _errors(backbone, condition))


def test_without_crops_a_picture_is_taken_as_drawn_at_its_size():
    backbone = load("sdxl", lora=None)
    as_drawn = torch.tensor([32, 32, 0, 0, 32, 32]).expand(2, 2, 6)
    bare = Condition(backbone.text(PROMPTS[:2]))
    assert torch.equal(_errors(backbone, bare), _errors(backbone, _told(backbone, as_drawn)))
    with torch.no_grad(), Watched(backbone.network) as watched:
        backbone.view("reference")(torch.zeros(1, 4, 6, 8), torch.ones(1), Condition(backbone.text(["a"])))
    assert watched.told[0]["added_cond_kwargs"]["time_ids"].tolist() == [[24, 32, 0, 0, 24, 32]]


# ---------------------------------------------------------------- the autoencoder in half precision


@pytest.mark.parametrize(
    ("dtype", "upcast", "found"),
    [
        (torch.float16, True, torch.float32),
        (torch.float16, False, torch.float16),  # madebyollin/sdxl-vae-fp16-fix says so
        (torch.bfloat16, True, torch.bfloat16),
    ],
)
def test_an_autoencoder_that_overflows_in_half_precision_is_not_run_in_it(dtype, upcast, found):
    pipeline = StableDiffusionXLPipeline.from_pretrained(path_of("sdxl")).to(
        dtype
    )  # others share theirs: this is lossy
    pipeline.vae.register_to_config(force_upcast=upcast)
    backbone = SDXLBackbone(pipeline)
    assert (backbone.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype) == (dtype, found, dtype)
    assert backbone.encode(scenes()).isfinite().all()


# ---------------------------------------------------------------- what is no SDXL base


def _without(pipeline, name):
    setattr(pipeline, name, None)
    return pipeline


@pytest.mark.parametrize("name", ["text_encoder", "tokenizer"])
def test_a_refiner_is_refused(name):
    with pytest.raises(ConfigError, match=r"model.path: this is an SDXL refiner: .*stable-diffusion-xl-base-1.0"):
        SDXLBackbone(_without(diffusers_pipeline("sdxl"), name))


def test_a_refiner_s_folder_is_refused_by_its_index(tmp_path):
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    with pytest.raises(ConfigError, match=r"model.path: this is an SDXL refiner"):
        load_backbone("sdxl", str(tmp_path))


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_inpainting_checkpoints_are_refused(family):
    pipeline = diffusers_pipeline(family)
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(
        ConfigError, match=r"model.path: this UNet takes 9 channels and its autoencoder gives 4: .*inpainting"
    ):
        (SDBackbone if family == "sd" else SDXLBackbone)(pipeline)


def test_another_schedule_s_checkpoint_is_refused():
    """Playground v2.5 is an SDXL UNet on EDM's noise levels."""
    pipeline = diffusers_pipeline("sdxl")
    pipeline.scheduler = EDMDPMSolverMultistepScheduler()
    with pytest.raises(ConfigError, match=r"EDMDPMSolverMultistepScheduler, which has no table of noise levels"):
        SDXLBackbone(pipeline)


def test_sd_and_sdxl_are_not_mixed_up():
    with pytest.raises(ConfigError, match=r"holds a StableDiffusionXLPipeline, but model.family 'sd' needs"):
        load_backbone("sd", path_of("sdxl"))
