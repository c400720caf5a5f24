"""FLUX: packing, places, embedded guidance and resolution-dependent times, as diffusers' own pipeline has them."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from diffalign.backbones import FluxBackbone, SD3Backbone
from diffalign.backbones.flow_times import shift_of
from diffalign.backbones.flux import pack, place_ids, unpack
from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator
from makers.tiny_pipelines import FLUX_SCHEDULE, save_flux
from tests.backbones.models import OPTIONS, PROMPTS, answer, diffusers_pictures, diffusers_pipeline, load, load_from

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def drawn(backbone, steps=4, **options):
    generator = ImageGenerator.create(backbone, steps=steps, **options)
    return next(generator.latents(PROMPTS[:2], [5, 6], view="reference"))


class Watched:
    """What a transformer is called with and answers, call by call."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.told: list[dict] = []
        self.outputs: list[torch.Tensor] = []
        self._handle = transformer.register_forward_hook(self._look, with_kwargs=True)

    def _look(self, _module, _args, kwargs, output) -> None:
        self.told.append(kwargs)
        self.outputs.append(output[0])

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


# ---------------------------------------------------------------- packing


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_packing_is_the_pipelines(height, width):
    latents = torch.randn(3, 16, height, width)
    packed = pack(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 3, 16, height, width))
    assert torch.equal(unpack(packed, height // 2, width // 2), latents)
    theirs = FluxPipeline._prepare_latent_image_ids(3, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(place_ids(height // 2, width // 2), theirs)


def test_pictures_need_not_be_square():
    backbone = load("flux", lora=None)
    x_t = torch.randn(1, 4, 4, 12)
    with torch.no_grad(), Watched(backbone.network) as watched:
        found = backbone.view("reference")(x_t, torch.tensor([0.5]), backbone.condition(["a"]))
    assert found.shape == x_t.shape
    assert watched.told[0]["img_ids"].max(0).values.tolist() == [0, 1, 5]


# ---------------------------------------------------------------- the same numbers as the pipeline


def test_one_denoising_step_is_the_pipelines():
    backbone, pipeline = load("flux", lora=None), diffusers_pipeline("flux")
    with Watched(pipeline.transformer) as theirs:
        told = {"num_inference_steps": 3, "guidance_scale": 3.5}
        diffusers_pictures(pipeline, "flux", PROMPTS[:2], [1, 2], "latent", **told)
    condition = backbone.condition(PROMPTS[:2], guidance=3.5)
    for diffusers, answer_ in zip(theirs.told, theirs.outputs, strict=True):
        x_t = unpack(diffusers["hidden_states"], 4, 4)
        with torch.no_grad(), Watched(backbone.network) as ours:
            found = backbone.view("reference")(x_t, diffusers["timestep"], condition)
        torch.testing.assert_close(found, unpack(answer_, 4, 4), rtol=0, atol=1e-6)
        for name in ("hidden_states", "encoder_hidden_states", "pooled_projections", "guidance", "txt_ids", "img_ids"):
            assert torch.equal(ours.told[0][name], diffusers[name]), name


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_whole_sampling_is_the_pipelines(guidance, resolution):
    pipeline = diffusers_pipeline("flux")
    pipeline.default_sample_size = resolution // 4
    told = {"num_inference_steps": 6, "guidance_scale": guidance}
    theirs = diffusers_pictures(pipeline, "flux", PROMPTS[:2], [5, 6], "latent", **told)
    ours = drawn(load("flux", lora=None), steps=6, guidance_scale=guidance, resolution=resolution)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_one_network_call_a_step_whatever_the_guidance():
    backbone = load("flux", lora=None)
    with Watched(backbone.network) as watched:
        drawn(backbone, steps=3, guidance_scale=3.5)
    assert [len(told["hidden_states"]) for told in watched.told] == [2, 2, 2]


def test_conventions():
    backbone = load("flux", lora=None)
    assert isinstance(backbone.process, LinearFlow) and backbone.prediction is Prediction.FLOW
    assert backbone.embeds_guidance
    assert (backbone.resolution, backbone.sample_shape(), backbone.sample_shape(64)) == (32, (4, 8, 8), (4, 16, 16))
    assert backbone.condition(["a"]).leaves["states"].shape == (1, OPTIONS["flux"]["max_sequence_length"], 32)


def test_max_sequence_length_is_diffusers_default_unless_told():
    assert FluxBackbone(diffusers_pipeline("flux")).text([""])["states"].shape[1] == 512
    with pytest.raises(ConfigError, match=r"model.max_sequence_length: must be at most 512 for FLUX, got 513"):
        FluxBackbone(diffusers_pipeline("flux"), max_sequence_length=513)
    shorter = FluxBackbone(diffusers_pipeline("flux"), max_sequence_length=8)
    assert shorter.fingerprint("text") != load("flux", lora=None).fingerprint("text")


# ---------------------------------------------------------------- guidance


def test_training_is_told_one_unless_another_scale_is_asked_for():
    for guidance, expected in ((None, 1.0), (3.5, 3.5)):
        backbone = FluxBackbone(diffusers_pipeline("flux"), guidance=guidance, **OPTIONS["flux"])
        with torch.no_grad(), Watched(backbone.network) as watched:
            answer(backbone, "reference")
            drawn(backbone, steps=1, guidance_scale=2.0)
        assert [told["guidance"].tolist() for told in watched.told] == [[expected] * 2, [2.0] * 2]


def test_guidance_matters_and_marks_the_network():
    """Reference errors that were kept for one scale are not served for another."""
    plain, other = (
        FluxBackbone(diffusers_pipeline("flux"), guidance=scale, **OPTIONS["flux"]) for scale in (None, 3.5)
    )
    assert not torch.allclose(answer(plain, "reference"), answer(other, "reference"))
    assert plain.fingerprint("network") != other.fingerprint("network")
    assert plain.fingerprint("text") == other.fingerprint("text")


def test_a_network_that_is_told_no_scale():
    """Its guidance is the empty prompt's, as the pipeline's true_cfg_scale."""
    pipeline = diffusers_pipeline("flux")
    with pytest.raises(ValueError, match="guidance: this network is not told a scale"):
        load("sd", lora=None).condition(["a"], guidance=2.0)
    pipeline.transformer.register_to_config(guidance_embeds=False)
    embedding = pipeline.transformer.time_text_embed
    pipeline.transformer.time_text_embed = Unguided(embedding)
    backbone = FluxBackbone(pipeline, **OPTIONS["flux"])
    assert not backbone.embeds_guidance
    told = {"num_inference_steps": 4, "true_cfg_scale": 3.0, "negative_prompt": ["", ""]}
    theirs = diffusers_pictures(pipeline, "flux", PROMPTS[:2], [5, 6], "latent", **told)
    torch.testing.assert_close(drawn(backbone, guidance_scale=3.0), theirs, **CLOSE)
    with pytest.raises(
        ConfigError, match=r"model.guidance: this checkpoint is not told a guidance scale .*got 3.5; leave it"
    ):
        FluxBackbone(pipeline, guidance=3.5)


class Unguided(torch.nn.Module):
    """The time and text embedding of a FLUX without guidance, from one with."""

    def __init__(self, embedding: torch.nn.Module) -> None:
        super().__init__()
        self.time_proj, self.timestep_embedder = embedding.time_proj, embedding.timestep_embedder
        self.text_embedder = embedding.text_embedder

    def forward(self, timestep, pooled):
        return self.timestep_embedder(self.time_proj(timestep)) + self.text_embedder(pooled)


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize("resolution", [32, 48, 64])
def test_times_go_by_the_resolution_as_the_pipelines(steps, resolution):
    pipeline = diffusers_pipeline("flux")
    pipeline.default_sample_size = resolution // 4
    diffusers_pictures(pipeline, "flux", ["a"], [1], "latent", num_inference_steps=steps)
    times = load("flux", lora=None).times(steps, resolution)
    torch.testing.assert_close(times, pipeline.scheduler.sigmas, rtol=1e-6, atol=1e-7)
    shift = load("flux", lora=None).time_shift(resolution)
    even = torch.tensor([1 - step / steps for step in range(steps)] + [0.0])
    torch.testing.assert_close(times, shift * even / (1 + (shift - 1) * even), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("pixels", "shift"), [(256, math.exp(0.5)), (1024, math.exp(1.15))])
def test_shift_of_flux_dev(pixels, shift):
    """0.5 at 256 tokens, 1.15 at 4096, linear between; the checkpoint's own `shift` is not used."""
    assert shift_of(FLUX_SCHEDULE, (pixels // 16) ** 2) == pytest.approx(shift)
    assert shift_of(FLUX_SCHEDULE, (256 + 4096) // 2) == pytest.approx(math.exp((0.5 + 1.15) / 2))
    assert shift_of(FLUX_SCHEDULE | {"time_shift_type": "linear"}, 256) == pytest.approx(0.5)
    assert shift_of(FLUX_SCHEDULE | {"use_dynamic_shifting": False}, 256) == 3.0


@pytest.mark.parametrize("changes", [{"use_dynamic_shifting": False, "shift": 1.0}, {"time_shift_type": "linear"}])
def test_other_shifts_are_followed(changes):
    """The first are FLUX.1-schnell's."""
    pipeline = diffusers_pipeline("flux")
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, **changes)
    told = {"num_inference_steps": 4, "guidance_scale": 1.0}
    theirs = diffusers_pictures(pipeline, "flux", PROMPTS[:2], [5, 6], "latent", **told)
    torch.testing.assert_close(drawn(FluxBackbone(pipeline, **OPTIONS["flux"])), theirs, **CLOSE)


def test_sd3_may_shift_by_the_resolution_too():
    pipeline = diffusers_pipeline("sd3")
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, use_dynamic_shifting=True
    )
    theirs = diffusers_pictures(
        pipeline, "sd3", PROMPTS[:2], [5, 6], "latent", num_inference_steps=5, guidance_scale=1.0
    )
    backbone = SD3Backbone(pipeline, max_sequence_length=1)
    torch.testing.assert_close(drawn(backbone, steps=5), theirs, **CLOSE)
    assert backbone.process.shift == backbone.time_shift() != 1


# ---------------------------------------------------------------- saving and loading


def test_a_saved_pipeline_without_guidance_loads(tmp_path):
    folder = save_flux(tmp_path / "model", guidance_embeds=False)
    backbone = load_from("flux", str(folder), lora=None)
    assert not backbone.embeds_guidance
    assert answer(backbone, "reference").isfinite().all()


def test_lora_is_on_the_layers_of_diffusers_own_script():
    names = {name.split(".lora_")[0] for name in load("flux").state()}
    double = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    expected = {f"transformer_blocks.{block}.attn.{name}" for block in (0, 1) for name in double}
    for part in ("ff", "ff_context"):
        expected |= {f"transformer_blocks.{block}.{part}.net.{name}" for block in (0, 1) for name in ("0.proj", "2")}
    expected |= {f"single_transformer_blocks.{block}.attn.to_{name}" for block in (0, 1) for name in "qkv"}
    assert names == expected
