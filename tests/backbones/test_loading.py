"""Loading: which model a path means, what its scheduler config says, and errors that help."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from diffalign.backbones import SDBackbone, load_backbone
from diffalign.denoising import VP, LinearFlow, Prediction, add_noise
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator
from diffalign.zoo import locate
from tests.backbones.models import (
    OPTIONS,
    answer,
    diffusers_pipeline,
    folder_of,
    load,
    load_fresh,
    load_from,
    path_of,
)


@pytest.fixture
def folder(family, tmp_path):
    """A copy of the family's zoo model that a test may change."""
    return shutil.copytree(folder_of(family), tmp_path / "model")


def test_a_folder_is_the_same_model_as_the_zoo_name(family, folder):
    found = load_from(family, str(folder), lora=None)
    assert torch.equal(answer(found, "reference"), answer(load_fresh(family), "reference"))
    assert found.family == family


def test_conventions():
    sd, sd3 = load("sd", lora=None), load("sd3", lora=None)
    assert isinstance(sd.process, VP) and sd.prediction is Prediction.NOISE
    assert isinstance(sd3.process, LinearFlow) and sd3.prediction is Prediction.FLOW
    for backbone in (sd, sd3):
        assert (backbone.resolution, backbone.sample_shape(), backbone.sample_shape(16)) == (32, (4, 8, 8), (4, 4, 4))


def test_everything_is_frozen_and_in_eval_mode(family):
    backbone = load(family, lora=None)
    for part in backbone.pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            assert not part.training
            assert not any(parameter.requires_grad for parameter in part.parameters())


# ---------------------------------------------------------------- scheduler configs


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_prediction_type_is_read_from_the_scheduler(kind):
    pipeline = diffusers_pipeline("sd")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type=kind)
    expected = {"epsilon": Prediction.NOISE, "v_prediction": Prediction.V, "sample": Prediction.SAMPLE}
    assert SDBackbone(pipeline).prediction is expected[kind]


def test_zero_terminal_snr_is_read_from_the_scheduler():
    pipeline = diffusers_pipeline("sd")
    assert SDBackbone(pipeline).process.alpha(torch.ones(1)) > 0.05
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    backbone = SDBackbone(pipeline)
    assert backbone.process.alpha(torch.ones(1)) == 0
    assert backbone.prediction is Prediction.V


def test_from_the_folder_too(tmp_path):
    folder = shutil.copytree(locate("zoo://shapes-sd"), tmp_path / "model")
    config = folder / "scheduler" / "scheduler_config.json"
    told = json.loads(config.read_text()) | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config.write_text(json.dumps(told))
    backbone = load_backbone("sd", str(folder))
    assert backbone.prediction is Prediction.V and backbone.process.alpha(torch.ones(1)) == 0


def test_an_unknown_prediction_type_is_refused():
    pipeline = diffusers_pipeline("sd")
    pipeline.scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(ConfigError, match="predicts 'flow_prediction'"):
        SDBackbone(pipeline)


def test_shift_is_read_from_the_scheduler():
    pipeline = diffusers_pipeline("sd3")
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, shift=3.0)
    backbone = type(load("sd3", lora=None))(pipeline)
    assert backbone.process == LinearFlow(shift=3.0)
    times = backbone.times(4)
    # the first is 1 and the rest are shifted towards noise
    assert times[0] == 1 and times[-1] == 0 and len(times) == 5
    assert (times > load("sd3", lora=None).times(4) - 1e-6).all() and times[2] > 0.6


def test_sampling_times_of_sd_are_diffusers_steps():
    """Stable Diffusion 1.5's own scheduler config is PNDM's: its DDIM steps."""
    pipeline = diffusers_pipeline("sd")
    told = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipeline.scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **told)
    backbone = SDBackbone(pipeline)
    assert backbone.process.index(backbone.times(4)).tolist() == [751, 501, 251, 1, 0]
    to_one = SDBackbone(pipeline)
    to_one.pipeline.scheduler = DDIMScheduler(set_alpha_to_one=True, timestep_spacing="trailing", **told)
    assert (to_one.times(4) * 1000).round().tolist() == [1000, 750, 500, 250, 0]


SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"]  # all that DDPMScheduler knows


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_of_ddpm_noises_and_samples_as_diffusers(schedule, zero_snr):
    pipeline = diffusers_pipeline("sd")
    told = {"beta_schedule": schedule, "rescale_betas_zero_snr": zero_snr, "timestep_spacing": "trailing"}
    pipeline.scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction", **told)
    backbone = SDBackbone(pipeline)
    index = torch.arange(1000)
    x0, noise = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
    theirs = pipeline.scheduler.add_noise(x0, noise, index)
    assert torch.equal(add_noise(backbone.process, x0, noise, backbone.process.grid), theirs)
    assert backbone.process.index(backbone.times(4)[:-1]).tolist() == [999, 749, 499, 249]
    drawn = next(ImageGenerator.create(backbone, steps=2).latents(["a red circle"], [0], view="reference"))
    assert drawn.isfinite().all()


def test_a_table_of_betas_has_its_own_number_of_times():
    pipeline = diffusers_pipeline("sd")
    pipeline.scheduler = DDPMScheduler(trained_betas=[0.01, 0.02, 0.04, 0.08], timestep_spacing="trailing")
    backbone = SDBackbone(pipeline)
    assert backbone.process.entries == 4
    assert backbone.times(2).tolist() == [1.0, 0.5, 0.0]


def test_a_scheduler_without_a_table_is_refused():
    pipeline = diffusers_pipeline("sd")
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigError, match=r"model.path: .*FlowMatchEulerDiscreteScheduler, which has no table"):
        SDBackbone(pipeline)


def test_a_schedule_that_diffusers_does_not_know_is_a_config_error(tmp_path):
    folder = shutil.copytree(locate("zoo://shapes-sd"), tmp_path / "model")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_schedule": "exp"}))
    with pytest.raises(ConfigError, match=r"model.path: cannot load .*exp is not implemented"):
        load_backbone("sd", str(folder))


# ---------------------------------------------------------------- what the network is told


def test_unets_are_told_whole_indices_and_sd3_a_thousand_times_t(family):
    backbone = load(family)
    told = {}

    def look(module, args, kwargs):
        told["time"] = args[1] if family in ("sd", "sdxl", "volume") else kwargs["timestep"]

    handle = backbone.network.register_forward_pre_hook(look, with_kwargs=True)
    x = torch.zeros(3, *backbone.sample_shape())
    t = torch.tensor([0.001, 0.5, 1.0])
    with torch.no_grad():
        backbone.view("reference")(x, t, backbone.condition(["", "", ""]))
    handle.remove()
    thousandfold = [1.0, 500.0, 1000.0]
    expected = {"sd3": thousandfold, "volume": thousandfold, "flux": [0.001, 0.5, 1.0]}.get(family, [0.0, 499.0, 999.0])
    torch.testing.assert_close(told["time"], torch.tensor(expected), rtol=1e-6, atol=0)


def test_conditions_are_diffusers_prompt_embeddings(family):
    """And what guidance compares with is what the pipeline compares with."""
    backbone, pipeline = load(family, lora=None), diffusers_pipeline(family)
    prompts = ["a red circle", "two blue crosses"]
    condition = backbone.condition(prompts)
    assert len(condition) == 2
    names = ["states", "states"] if family in ("sd", "volume") else ["states", "states", "pooled", "pooled"]
    with torch.no_grad():
        if family == "sd":
            told = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=True)
        elif family == "sdxl":
            told = pipeline.encode_prompt(prompts)
        elif family == "volume":
            told = pipeline.encode_prompt(prompts), pipeline.encode_prompt(["", ""])
        elif family == "sd3":
            told = pipeline.encode_prompt(prompts, prompts, prompts, **OPTIONS[family])
        else:  # the pipeline's true_cfg_scale, with negative_prompt=""
            states, pooled, _ = pipeline.encode_prompt(prompts, None, **OPTIONS[family])
            empty, empty_pooled, _ = pipeline.encode_prompt(["", ""], None, **OPTIONS[family])
            told = states, empty, pooled, empty_pooled
    for number, (name, leaf) in enumerate(zip(names, told, strict=True)):
        torch.testing.assert_close((condition.null if number % 2 else condition.leaves)[name], leaf)
    assert condition.leaves.keys() == condition.null.keys() == set(names)
    assert all(not leaf.requires_grad for leaf in condition.leaves.values())


def test_max_sequence_length_is_diffusers_default_unless_told():
    assert load_backbone("sd3", "zoo://shapes-sd3").condition([""]).leaves["states"].shape[1] == 16 + 256
    assert load("sd3", lora=None).condition([""]).leaves["states"].shape[1] == 16 + 1


# ---------------------------------------------------------------- errors


def test_an_unknown_family():
    with pytest.raises(ConfigError, match=r"model.family: must be one of sd, sdxl, sd3, flux, volume, got 'sdxxl'"):
        load_backbone("sdxxl", "zoo://shapes-sd")


@pytest.mark.parametrize(
    ("family", "other", "holds"), [("sd", "sd3", "StableDiffusion3"), ("sd3", "sd", "StableDiffusion")]
)
def test_a_model_of_another_family(family, other, holds):
    with pytest.raises(ConfigError, match=f"model.path: .* holds a {holds}Pipeline, but model.family '{family}' needs"):
        load_backbone(family, path_of(other))


def test_a_missing_folder(family, tmp_path):
    with pytest.raises(ConfigError, match=r"model.path: cannot load .*nowhere.*no such folder here"):
        load_backbone(family, str(tmp_path / "nowhere"))


def test_a_folder_without_a_model(family, tmp_path):
    with pytest.raises(ConfigError, match=r"model.path: cannot load"):
        load_backbone(family, str(tmp_path))


def test_a_name_that_is_not_here_and_not_on_the_hub(family):
    with pytest.raises(ConfigError, match=r"model.path: cannot load 'nobody/nothing' \(no such folder here"):
        load_backbone(family, "nobody/nothing")


def test_an_unknown_zoo_name_gets_a_hint(family):
    with pytest.raises(ConfigError, match="did you mean zoo://shapes-sd"):
        load_backbone(family, "zoo://shape-sd")


def test_broken_weights(family, folder):
    for file in folder.glob("text_encoder/*.safetensors"):
        file.write_bytes(b"not tensors")
    with pytest.raises(ConfigError, match=r"model.path: cannot load"):
        load_backbone(family, str(folder))


def test_weights_in_pickles_are_refused(family, folder):
    file = next(folder.glob("vae/*.safetensors"))
    torch.save({}, file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ConfigError, match=r"model.path: cannot load"):
        load_backbone(family, str(folder))
