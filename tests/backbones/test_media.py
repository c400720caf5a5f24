"""Pictures to latents and back, and the fingerprints that caches go by."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from diffalign.backbones import LoRASettings
from diffalign.backbones.lora import lora_layers
from diffalign.denoising import Prediction
from diffalign.exceptions import ConfigError
from diffalign.zoo import locate
from tests.backbones.models import (
    FAMILIES,
    ZOO_FAMILIES,
    answer,
    diffusers_pipeline,
    load,
    load_fresh,
    path_of,
    perturb,
    scenes,
)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def untrained(family):
    return load(family, lora=None)


def test_pictures_survive_encoding(untrained):
    """The zoo's autoencoder is trained: mean absolute error on rendered scenes below 1 % of the range (0.3 %)."""
    pictures = scenes()
    latents = untrained.encode(pictures)
    again = untrained.decode(latents)
    assert latents.shape == (3, *untrained.sample_shape()) and latents.dtype == torch.float32
    assert again.shape == pictures.shape and again.min() >= 0 and again.max() <= 1
    assert (again - pictures).abs().mean() < 0.01
    assert (again - pictures.flip(0)).abs().mean() > 0.05  # another scene is further away
    assert not latents.requires_grad


@pytest.mark.parametrize(("scale", "shift"), [(0.18215, None), (1.5305, 0.0609)])
def test_latents_are_scaled_as_diffusers_scales_them(family, scale, shift):
    """Pipelines decode x0 / scaling_factor + shift_factor: ours is that, and `encode` its inverse."""
    backbone, plain = load_fresh(family, lora=None), load(family, lora=None)
    backbone.pipeline.vae.register_to_config(scaling_factor=scale, shift_factor=shift)
    unscaled = plain.posterior(scenes())
    factor, offset = plain.pipeline.vae.config.scaling_factor, plain.pipeline.vae.config.shift_factor or 0.0
    mean = unscaled.mean / factor + offset
    found = backbone.posterior(scenes())
    torch.testing.assert_close(found.mean, (mean - (shift or 0.0)) * scale)
    std = (unscaled.log_variance / 2).exp() / factor
    torch.testing.assert_close((found.log_variance / 2).exp(), std * scale)
    torch.testing.assert_close(backbone.decode(found.mean), plain.decode(unscaled.mean), rtol=1e-4, atol=1e-4)


def test_posterior_is_the_autoencoders(family, untrained):
    vae = diffusers_pipeline(family).vae
    with torch.no_grad():
        seen = vae.encode(scenes() * 2 - 1).latent_dist
    factor, offset = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    torch.testing.assert_close(untrained.posterior(scenes()).mean, (seen.mean - offset) * factor)


def test_encoding_with_a_generator_draws_from_the_posterior(untrained):
    pictures = scenes()
    posterior = untrained.posterior(pictures)
    draws = torch.stack(
        [untrained.encode(pictures, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    )
    standard = (draws - posterior.mean) / (posterior.log_variance / 2).exp()
    assert abs(standard.mean().item()) < 0.05
    assert standard.std().item() == pytest.approx(1, rel=0.05)
    again = untrained.encode(pictures, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, draws[0])
    assert torch.equal(untrained.encode(pictures), posterior.mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32_media(family, dtype):
    backbone = load(family, lora=None, dtype=dtype)
    latents = backbone.encode(scenes())
    assert latents.dtype == torch.float32
    pictures = backbone.decode(latents)
    assert pictures.dtype == torch.float32
    assert (pictures - scenes()).abs().mean() < 0.03


# ---------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("part", ["vae", "text"])
def test_fingerprint_is_equal_across_loads(family, part):
    first, again = load_fresh(family), load_fresh(family, lora=None)
    again.condition(["a red circle"])  # using it changes nothing
    again.encode(scenes()[:1])
    assert first.fingerprint(part) == again.fingerprint(part)
    assert len(first.fingerprint(part)) == 32


def test_fingerprint_changes_with_one_weight(family):
    for part, other, name in (("vae", "text", "vae"), ("text", "vae", "text_encoder")):
        backbone = load_fresh(family, lora=None)
        before = {each: backbone.fingerprint(each) for each in ("vae", "text")}
        with torch.no_grad():
            next(getattr(backbone.pipeline, name).parameters()).view(-1)[0].add_(1e-3)
        assert backbone.fingerprint(part) != before[part]
        assert backbone.fingerprint(other) == before[other]


def test_fingerprint_changes_with_scale_and_sequence_length():
    backbone = load_fresh("sd3", lora=None)
    before = backbone.fingerprint("vae")
    backbone.pipeline.vae.register_to_config(scaling_factor=0.5)
    assert backbone.fingerprint("vae") != before
    longer = type(backbone)(diffusers_pipeline("sd3"), max_sequence_length=2)
    assert longer.fingerprint("text") != backbone.fingerprint("text")


def test_fingerprint_changes_with_the_tokenizer(family):
    backbone = load_fresh(family, lora=None)
    before = backbone.fingerprint("text")
    backbone.pipeline.tokenizer.add_tokens(["octagon"])
    assert backbone.fingerprint("text") != before


def test_fingerprint_reads_numbers_without_dimensions(family):
    backbone = load_fresh(family, lora=None)
    backbone.pipeline.text_encoder.register_buffer("logit_scale", torch.tensor(2.0))
    before = backbone.fingerprint("text")
    backbone.pipeline.text_encoder.logit_scale += 1
    assert backbone.fingerprint("text") != before


# ---------------------------------------------------------------- the fingerprint of the frozen network


def test_network_fingerprint_is_that_of_the_weights_below_the_adapters(family):
    bare, adapted = load(family, lora=None), load(family)
    expected = bare.fingerprint("network")
    assert len(expected) == 32
    assert adapted.fingerprint("network") == expected
    adapted.snapshot("behaviour")
    perturb(adapted)  # as training changes it
    assert not torch.equal(answer(adapted), answer(adapted, "reference"))
    assert adapted.fingerprint("network") == expected
    assert load(family, lora=LoRASettings(rank=2, alpha=1.0)).fingerprint("network") == expected


def test_network_fingerprint_is_equal_across_loads(family):
    assert load_fresh(family).fingerprint("network") == load_fresh(family, lora=None).fingerprint("network")


def test_network_fingerprint_changes_with_one_weight_below_the_adapters(family):
    backbone = load(family)
    seen = {backbone.fingerprint("network")}
    adapted = lora_layers(backbone.network)[0].get_base_layer().weight
    plain = next(weight for name, weight in backbone.network.named_parameters() if "lora" not in name)
    for weight in (adapted, plain):
        with torch.no_grad():
            weight.view(-1)[0].add_(1e-3)
        seen.add(backbone.fingerprint("network"))
    assert len(seen) == 3


def test_network_fingerprint_changes_with_the_precision_the_scheduler_and_the_prediction(family):
    backbone = load(family, lora=None)
    seen = {backbone.fingerprint("network"), load(family, dtype=torch.bfloat16).fingerprint("network")}
    backbone.pipeline.scheduler.register_to_config(num_train_timesteps=500)
    seen.add(backbone.fingerprint("network"))
    backbone.prediction = next(each for each in Prediction if each is not backbone.prediction)
    seen.add(backbone.fingerprint("network"))
    assert len(seen) == 4


def test_network_fingerprint_leaves_the_other_parts_alone(family):
    backbone = load_fresh(family, lora=None)
    before = backbone.fingerprint("network")
    for name in ("vae", "text_encoder"):
        with torch.no_grad():
            next(getattr(backbone.pipeline, name).parameters()).view(-1)[0].add_(1e-3)
    assert backbone.fingerprint("network") == before
    assert len({backbone.fingerprint(part) for part in ("network", "vae", "text")}) == 3


# ---------------------------------------------------------------- the identity that shipped latents go by


@pytest.mark.parametrize("family", ZOO_FAMILIES)
def test_autoencoder_identity_is_that_of_the_shipped_preferences(family):
    """In whichever precision the model is loaded."""
    with safe_open(locate(f"{path_of(family)}/preferences"), framework="pt") as file:
        shipped = file.metadata()["autoencoder"]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert load(family, lora=None, dtype=dtype).autoencoder_identity() == shipped


@pytest.mark.parametrize("family", ZOO_FAMILIES)
def test_autoencoder_identity_ignores_settings_that_change_no_latents(family):
    backbone = load_fresh(family, lora=None)
    before = backbone.autoencoder_identity()
    shift = backbone.pipeline.vae.config.get("shift_factor")
    assert not shift
    backbone.pipeline.vae.register_to_config(a_later_default=True, shift_factor=0.0 if shift is None else None)
    assert backbone.autoencoder_identity() == before


def test_autoencoder_identity_changes_with_a_weight_the_scale_and_the_shift(family):
    backbone = load_fresh(family, lora=None)
    vae = backbone.pipeline.vae
    seen = {backbone.autoencoder_identity()}
    vae.register_to_config(scaling_factor=vae.config.scaling_factor * 1.01)
    seen.add(backbone.autoencoder_identity())
    vae.register_to_config(shift_factor=0.06)
    seen.add(backbone.autoencoder_identity())
    with torch.no_grad():
        next(vae.parameters()).view(-1)[0].add_(0.1)
    seen.add(backbone.autoencoder_identity())
    assert len(seen) == 4


# ---------------------------------------------------------------- sizes and steps


@pytest.mark.parametrize("resolution", [0, -8, 5, 21])
def test_resolutions_that_have_no_latents_are_refused(family, resolution):
    backbone = load(family, lora=None)
    patch = {"sd3": backbone.network.config.get("patch_size"), "flux": 2}.get(family, 1)
    unit = 32 // backbone.sample_shape(32)[-1] * patch
    nearest = {0: unit, -8: unit, 5: unit, 21: 21 // unit * unit}[resolution]
    message = rf"data.resolution: must be a positive multiple of {unit}.*, got {resolution}; nearest: .*\b{nearest}\b"
    for refuse in (backbone.sample_shape, backbone.checked_resolution):
        with pytest.raises(ConfigError, match=message):
            refuse(resolution)


def test_resolutions_that_sd3_cannot_place_are_refused():
    backbone = load("sd3", lora=None)
    most = (
        backbone.network.config.pos_embed_max_size
        * backbone.network.config.patch_size
        * 32
        // backbone.sample_shape(32)[1]
    )
    assert backbone.checked_resolution(most) == most
    with pytest.raises(ConfigError, match=rf"at most {most} for this model, got {2 * most}; nearest: {most}$"):
        backbone.sample_shape(2 * most)


def test_good_resolutions(family):
    backbone = load(family, lora=None)
    assert backbone.checked_resolution(None) == backbone.checked_resolution(32) == 32
    assert backbone.sample_shape(16)[1] * 2 == backbone.sample_shape()[1]


def test_numbers_of_steps_that_the_scheduler_refuses(family):
    backbone = load(family, lora=None)
    for steps in (0, -1, *((1001,) if family in ("sd", "sdxl") else ())):
        with pytest.raises(ConfigError, match=rf"steps: must be from 1 to 1000, .*, got {steps}$"):
            backbone.times(steps)
    assert len(backbone.times(1)) == 2
