"""Checkpoints in one .safetensors file: weights from it, everything else from a folder in diffusers' format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from diffalign.backbones import load_backbone
from diffalign.denoising import Prediction
from diffalign.exceptions import ConfigError
from tests.backbones.models import (
    LORA,
    OPTIONS,
    answer,
    diffusers_pipeline,
    folder_of,
    load,
    load_fresh,
    load_from,
    path_of,
)
from tests.backbones.single_file import write_single_file


@pytest.fixture(scope="module")
def sdxl_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder_of("sdxl"))
    return write_single_file(pipeline, tmp_path_factory.mktemp("single") / "my_sdxl.safetensors")


@pytest.fixture
def settings(tmp_path) -> Path:
    """The folder without its weights."""
    return shutil.copytree(folder_of("sdxl"), tmp_path / "settings", ignore=shutil.ignore_patterns("*.safetensors"))


def test_the_same_model_as_the_folder(sdxl_file, settings):
    found = load_from("sdxl", str(sdxl_file), config=str(settings))
    expected = load("sdxl")
    assert torch.equal(answer(found), answer(expected))
    for part in ("vae", "text", "network"):
        assert found.fingerprint(part) == expected.fingerprint(part)


def test_prediction_and_noise_levels_are_the_folders(sdxl_file, settings):
    """The file does not say that it predicts v: the scheduler of `config` does."""
    scheduler = settings / "scheduler" / "scheduler_config.json"
    told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | told))
    backbone = load_from("sdxl", str(sdxl_file), config=str(settings))
    assert backbone.prediction is Prediction.V
    assert backbone.process.alpha(torch.ones(1)) == 0


def test_half_precision_is_followed(sdxl_file, settings):
    backbone = load_from("sdxl", str(sdxl_file), config=str(settings), dtype=torch.bfloat16)
    assert backbone.dtype == backbone.pipeline.text_encoder_2.dtype == torch.bfloat16


def test_a_file_with_the_network_alone_takes_the_rest_from_the_folder(tmp_path):
    """As FLUX's transformer is published."""
    file = tmp_path / "flux_finetune.safetensors"
    weights = {key: 2 * value for key, value in diffusers_pipeline("flux").transformer.state_dict().items()}
    save_file(weights, file)
    found = load_from("flux", str(file), config=str(folder_of("flux")))
    for key, value in found.network.state_dict().items():
        if ".lora_" not in key:
            assert torch.equal(value, weights[key.replace(".base_layer.", ".")])
    assert found.fingerprint("text") == load("flux").fingerprint("text")
    assert found.fingerprint("vae") == load("flux").fingerprint("vae")
    with pytest.raises(
        ConfigError, match=r"model.path: cannot load '.*flux_finetune.safetensors' by itself: .*model.config$"
    ):
        load_backbone("flux", str(file), lora=LORA, **OPTIONS["flux"])


@pytest.mark.parametrize(("config", "told"), [(None, None), ("somewhere/else", "somewhere/else")])
def test_sd_asks_diffusers_without_a_safety_checker(config, told, tmp_path, monkeypatch):
    asked, pipeline = {}, load_fresh("sd", None).pipeline  # whose parts are cast

    def from_single_file(source, **options):
        asked.update(options, source=source)
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", from_single_file)
    monkeypatch.setattr(StableDiffusionPipeline, "load_config", lambda _: {"_class_name": "StableDiffusionPipeline"})
    file = tmp_path / "v1-5-pruned.safetensors"
    save_file({"first": torch.zeros(1)}, file)
    load_backbone("sd", str(file), config=config, dtype=torch.bfloat16)
    assert asked == {
        "source": str(file),
        "config": told,
        "dtype": torch.bfloat16,
        "safety_checker": None,
        "requires_safety_checker": False,
    }


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"model.path: no such file: .*nowhere.safetensors"):
        load_backbone("sdxl", str(tmp_path / "nowhere.safetensors"), config=path_of("sdxl"))


def test_settings_of_another_family(sdxl_file):
    with pytest.raises(ConfigError, match=r"model.config: .* holds a FluxPipeline, but model.family 'sdxl' needs"):
        load_backbone("sdxl", str(sdxl_file), config=path_of("flux"))


def test_without_settings_and_network(sdxl_file):
    with pytest.raises(
        ConfigError, match=r"my_sdxl.safetensors' by itself: .*StableDiffusionXLPipeline in model.config$"
    ):
        load_backbone("sdxl", str(sdxl_file))


@pytest.mark.parametrize("content", [b"", b"not tensors"])
def test_a_damaged_file(content, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model.path: cannot load '.*broken.safetensors'"):
        load_backbone("sdxl", str(tmp_path / "broken.safetensors"), config=path_of("sdxl"))


@pytest.mark.parametrize(
    ("marks", "about", "told"),
    [
        (["v_pred"], {}, ['"prediction_type": "v_prediction"']),
        (["v_pred", "ztsnr"], {}, ['"prediction_type": "v_prediction"', '"rescale_betas_zero_snr": true']),
        ([], {"modelspec.prediction_type": "v"}, ['"prediction_type": "v_prediction"']),
    ],
)
def test_a_file_that_says_it_predicts_v_needs_settings_that_do(sdxl_file, settings, tmp_path, marks, about, told):
    marked = tmp_path / "marked.safetensors"
    save_file(load_file(sdxl_file) | {name: torch.zeros(0) for name in marks}, marked, about)
    with pytest.raises(ConfigError, match=r"model\.config: marked\.safetensors says") as caught:
        load_from("sdxl", str(marked), config=str(settings))
    assert all(each in str(caught.value) for each in told)
    scheduler = settings / "scheduler" / "scheduler_config.json"
    right = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in marks}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | right))
    assert load_from("sdxl", str(marked), config=str(settings)).prediction is Prediction.V


def test_a_file_that_is_called_v_prediction_is_warned_of(sdxl_file, settings, tmp_path, caplog):
    shutil.copy(sdxl_file, tmp_path / "noob_vPred_10.safetensors")
    load_from("sdxl", str(tmp_path / "noob_vPred_10.safetensors"), config=str(settings))
    assert "noob_vPred_10.safetensors is called v-prediction" in caplog.text
