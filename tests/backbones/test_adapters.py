"""Saving and loading LoRA adapters: in diffusers' own format, and never into the wrong model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffalign.denoising import denoising_errors
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator
from tests.backbones.models import (
    LORA,
    PROMPTS,
    answer,
    diffusers_pictures,
    diffusers_pipeline,
    load,
    perturb,
    training_inputs,
)

SEEDS = [3, 4]


def _latents(backbone, view):
    generator = ImageGenerator.create(backbone, steps=4, guidance_scale=2.0)
    return next(generator.latents(PROMPTS[:2], SEEDS, view=view))


def _diffusers_latents(pipeline, family):
    told = {"num_inference_steps": 4, "guidance_scale": 2.0}
    return diffusers_pictures(pipeline, family, PROMPTS[:2], SEEDS, "latent", **told)


@pytest.mark.parametrize(
    ("family", "init"),
    [("sd", "default"), ("sdxl", "gaussian"), ("sd3", "gaussian"), ("flux", "default"), ("volume", "gaussian")],
)
def test_diffusers_draws_the_same_picture_with_the_saved_adapter(family, init, tmp_path, recwarn):
    """A fresh pipeline, `load_lora_weights(folder)`, nothing else told: alpha / rank = 2.5 must come from the file."""
    backbone = load(family, lora=replace(LORA, init=init))
    perturb(backbone)
    backbone.save_adapter(tmp_path / "adapter")
    pipeline = diffusers_pipeline(family)
    base = _diffusers_latents(pipeline, family)
    pipeline.load_lora_weights(tmp_path / "adapter")
    assert not [each for each in recwarn if "peft" in each.filename]  # of layers that have no adapter
    aligned = _diffusers_latents(pipeline, family)
    torch.testing.assert_close(_latents(backbone, "reference"), base, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(_latents(backbone, "policy"), aligned, rtol=1e-5, atol=1e-4)
    assert (aligned - base).abs().max() > 0.01


def test_any_view_can_be_saved(tmp_path):
    backbone = load("sd")
    perturb(backbone)
    backbone.snapshot("ema")
    expected = answer(backbone, "ema")
    perturb(backbone, seed=1)
    backbone.save_adapter(tmp_path / "adapter", "ema")
    fresh = load("sd")
    fresh.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(answer(fresh), expected, rtol=0, atol=0)


def test_round_trip_to_the_bit(family, tmp_path):
    backbone, fresh = load(family), load(family, lora=replace(LORA, seed=9))
    perturb(backbone)
    backbone.save_adapter(tmp_path / "adapter")
    assert not torch.equal(answer(fresh), answer(backbone))
    trained = fresh.trained_parameters()
    fresh.load_adapter(tmp_path / "adapter")
    assert torch.equal(answer(fresh), answer(backbone))
    assert [id(parameter) for parameter in fresh.trained_parameters()] == [id(parameter) for parameter in trained]


def test_state_round_trip_keeps_what_an_optimizer_holds():
    backbone, fresh = load("sd"), load("sd", lora=replace(LORA, seed=9))
    perturb(backbone)
    backbone.snapshot("ema")
    held = [id(parameter) for parameter in fresh.trained_parameters()]
    for name in ("policy", "ema"):
        fresh.load_state(name, backbone.state(name))
        assert torch.equal(answer(fresh, name), answer(backbone, name))
    assert [id(parameter) for parameter in fresh.trained_parameters()] == held


def test_saving_again_replaces_the_folder_whole(tmp_path):
    backbone, folder = load("sd"), tmp_path / "runs" / "adapter"
    backbone.save_adapter(folder)
    (folder / "stale.txt").write_text("from before")
    perturb(backbone)
    backbone.save_adapter(folder)
    assert [path.name for path in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 8}, "has shape"),
        ({"alpha": 4.0}, "trained with alpha 10, and this backbone has alpha 4"),
        ({"targets": ("to_q",)}, r"not this adapter: missing \[\], unexpected \["),
    ],
)
def test_an_adapter_of_other_settings_is_refused(change, message, family, tmp_path):
    load(family).save_adapter(tmp_path / "adapter")
    other = load(family, lora=replace(LORA, **change))
    before = answer(other)
    with pytest.raises(ConfigError, match=f"cannot read the adapter in .*{message}"):
        other.load_adapter(tmp_path / "adapter")
    assert torch.equal(answer(other), before)


def test_an_adapter_of_another_family_is_refused(tmp_path):
    load("sd").save_adapter(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="not this adapter"):
        load("sd3").load_adapter(tmp_path / "adapter")


def test_no_adapter_there(family, tmp_path):
    backbone = load(family)
    with pytest.raises(ConfigError, match=r"no adapter in .*nowhere: no such folder"):
        backbone.load_adapter(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot read the adapter"):
        backbone.load_adapter(tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ConfigError, match="cannot read the adapter"):
        backbone.load_adapter(tmp_path)


def test_a_pickle_is_never_opened(family, tmp_path):
    opened = tmp_path / "opened"

    class Bomb:
        def __reduce__(self):
            return (opened.touch, ())

    torch.save({"weights": Bomb()}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(ConfigError, match="cannot read the adapter"):
        load(family).load_adapter(tmp_path)
    assert not opened.exists()


def test_targets_that_no_layer_has_are_refused(family):
    with pytest.raises(ConfigError, match=r"lora.targets: no layer is named to_qq; there are .*to_q"):
        load(family, lora=replace(LORA, targets=("to_q", "to_qq")))


def test_a_model_without_the_family_s_own_layers_is_refused(family, monkeypatch):
    monkeypatch.setattr(type(load(family, lora=None)), "lora_targets", ("to_nowhere",))
    with pytest.raises(ConfigError, match=r"^model.lora.targets: .*target"):
        load(family)


def test_targets_choose_the_layers(family):
    backbone = load(family, lora=replace(LORA, targets=("to_q",)))
    assert {name.split(".lora_")[0].split(".")[-1] for name in backbone.state()} == {"to_q"}
    out = "to_out" if family == "volume" else "to_out.0"
    outputs = load(family, lora=replace(LORA, targets=(out,)))
    assert all(f".{out}.lora_" in name for name in outputs.state())


def test_every_tensor_of_the_adapter_learns(family):
    """SD3's last block throws away what its text queries gather: an adapter there would never move."""
    backbone = load(family)
    perturb(backbone)
    x0, condition, draw = training_inputs(backbone)
    denoising_errors(backbone.view("policy"), None, x0, condition, draw).policy.sum().backward()
    still = [
        name
        for name, parameter in backbone.network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert still == []
    if family == "sd3":
        last = len(backbone.network.transformer_blocks) - 1
        named = {name for name in backbone.state() if "add_q_proj" in name}
        assert named and not any(f"blocks.{last}." in name for name in named)
