"""Bases that were distilled to a few steps: refused or warned about before training, and drawn with all the same."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)

from diffalign.backbones import SDBackbone, SDXLBackbone, load_backbone
from diffalign.backbones.distilled import check_trainable
from diffalign.exceptions import ConfigError
from tests.backbones.models import FAMILIES, LORA, OPTIONS, diffusers_pipeline, folder_of, load_fresh


def warnings_of(caplog, pipeline, path="somewhere/model"):
    with caplog.at_level(logging.WARNING, logger="diffalign"):
        check_trainable(pipeline, path)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_bases_are_trained_without_a_word(family, caplog):
    with caplog.at_level(logging.WARNING, logger="diffalign"):
        load_fresh(family)
    assert [record for record in caplog.records if record.name.startswith("diffalign")] == []


@pytest.mark.parametrize(
    ("path", "sign"),
    [
        ("stabilityai/sdxl-turbo", "turbo"),
        ("stabilityai/sd-turbo", "turbo"),
        ("stabilityai/stable-diffusion-3.5-large-turbo", "turbo"),
        ("black-forest-labs/FLUX.1-schnell", "schnell"),
        ("/models/sdxl_lightning_4step_unet.safetensors", "lightning"),
        ("DreamShaperXL_Turbo_v2_1.safetensors", "turbo"),
        ("tianweiy/DMD2", "dmd2"),
        ("ByteDance/Hyper-SD", "hyper-sd"),
        ("SimianLuo/LCM_Dreamshaper_v7", "lcm"),
    ],
)
def test_names_of_distilled_bases_are_known(path, sign, caplog):
    (message,) = warnings_of(caplog, diffusers_pipeline("sdxl"), path)
    assert message.startswith(f"model.path: {path} looks distilled to a few steps (its name has '{sign}')")
    assert "train on the model that it was made from" in message and "data.empty_prompt_share: 0" in message


@pytest.mark.parametrize(
    "path",
    [
        "stabilityai/stable-diffusion-xl-base-1.0",
        "me/turbochargedcars",
        "/runs/turbo/plain-model",
        "black-forest-labs/FLUX.1-dev",
    ],
)
def test_other_names_are_not(path, caplog):
    assert warnings_of(caplog, diffusers_pipeline("sdxl"), path) == []


@pytest.mark.parametrize("kind", [EulerAncestralDiscreteScheduler, EulerDiscreteScheduler])
def test_turbo_is_known_by_its_scheduler(kind, caplog):
    pipeline = diffusers_pipeline("sdxl")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    (message,) = warnings_of(caplog, pipeline)
    assert "an Euler scheduler with trailing timesteps, as SDXL-Turbo" in message


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (DDIMScheduler, {}),
        (EulerDiscreteScheduler, {"prediction_type": "v_prediction"}),
        (EulerDiscreteScheduler, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ],
)
def test_trailing_timesteps_alone_say_nothing(kind, changes, caplog):
    pipeline = diffusers_pipeline("sdxl")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="trailing", **changes)
    assert warnings_of(caplog, pipeline) == []


@pytest.mark.parametrize(("dynamic", "warned"), [(False, True), (True, False)])
def test_schnell_is_known_by_its_settings(dynamic, warned, caplog):
    """FLUX models that were trained back to plain ones have no guidance embedding either, but keep dev's scheduler."""
    pipeline = diffusers_pipeline("flux")
    pipeline.transformer.register_to_config(guidance_embeds=False)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, use_dynamic_shifting=dynamic, shift=1.0
    )
    assert any("as FLUX.1-schnell" in message for message in warnings_of(caplog, pipeline)) == warned


def test_a_consistency_model_is_not_trained():
    pipeline = diffusers_pipeline("sd")
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(
        ConfigError, match=r"model.path: here is a latent consistency model \(its scheduler is LCMScheduler\)"
    ):
        check_trainable(pipeline, "here")


@pytest.mark.parametrize(("family", "kind"), [("sd", SDBackbone), ("sdxl", SDXLBackbone)])
def test_a_unet_that_is_told_a_guidance_scale_is_refused(family, kind):
    pipeline = diffusers_pipeline(family)
    pipeline.unet.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(ConfigError, match=r"model.path: this UNet is told a guidance scale .*latent consistency model"):
        kind(pipeline)


def test_a_distilled_base_is_loaded_for_drawing_and_warned_about_for_training(tmp_path, caplog):
    folder = shutil.copytree(folder_of("flux"), tmp_path / "flux-schnell")
    config = folder / "transformer" / "config.json"
    assert json.loads(config.read_text())["guidance_embeds"] is True
    with caplog.at_level(logging.WARNING, logger="diffalign"):
        load_backbone("flux", str(folder), **OPTIONS["flux"])
        assert caplog.records == []
        load_backbone("flux", str(folder), lora=LORA, **OPTIONS["flux"])
    assert ["its name has 'schnell'" in record.getMessage() for record in caplog.records] == [True]
