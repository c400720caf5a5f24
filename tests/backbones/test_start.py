"""A LoRA that training goes on with: the policy begins as it, and the reference is the base with it."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from diffalign.backbones import LoRASettings
from diffalign.denoising import denoising_errors
from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo
from tests.backbones.models import LORA, answer, diffusers_pipeline, load, perturb, training_inputs


@pytest.fixture
def begun(family, tmp_path):
    """A trained LoRA of another run, and its folder."""
    backbone = load(family)
    perturb(backbone)
    backbone.save_adapter(tmp_path / "begun")
    return backbone, tmp_path / "begun"


def go_on(family, path, **settings):
    return load(family, LoRASettings(**({"rank": None, "alpha": None, "start": path} | settings)))


def test_policy_and_reference_begin_as_the_base_with_it(family, begun):
    before, folder = begun
    backbone = go_on(family, folder)
    for view in ("policy", "reference"):
        assert torch.equal(answer(backbone, view), answer(before))
    x0, condition, draw = training_inputs(backbone)
    errors = denoising_errors(backbone.view("policy"), backbone.view("reference"), x0, condition, draw)
    loss = diffusion_dpo(errors.policy, reference=errors.reference, beta=5000.0).loss
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))


def test_training_moves_the_policy_alone_and_one_lora_is_saved(family, begun, tmp_path):
    before, folder = begun
    backbone = go_on(family, folder)
    trained = [name for name, each in backbone.network.named_parameters() if each.requires_grad]
    assert trained and all(".policy." in name for name in trained)
    perturb(backbone, seed=3)
    backbone.snapshot("ema")
    assert torch.equal(answer(backbone, "reference"), answer(before))
    assert not torch.allclose(answer(backbone), answer(before), atol=1e-3)
    backbone.save_adapter(tmp_path / "after", "ema")
    fresh = load(family)
    fresh.load_adapter(tmp_path / "after")
    assert torch.equal(answer(fresh), answer(backbone))
    pipeline = diffusers_pipeline(family)
    pipeline.load_lora_weights(tmp_path / "after")
    read = type(backbone)(pipeline)
    assert {type(each) for each in read.network.modules()} == {type(each) for each in fresh.network.modules()}


def test_the_reference_is_what_its_fingerprint_says(family, begun):
    _, folder = begun
    backbone = go_on(family, folder)
    prints = {load(family).fingerprint("network"), backbone.fingerprint("network")}
    assert len(prints) == 2
    perturb(backbone, seed=3)
    assert backbone.fingerprint("network") in prints  # the policy is no part of it


def test_rank_and_alpha_are_the_files():
    backbone = load("sd")
    assert backbone.network.peft_config["policy"].r == LORA.rank


@pytest.mark.parametrize(("name", "wanted"), [("rank", 8), ("alpha", 4.0)])
def test_another_rank_or_alpha_is_refused(name, wanted, tmp_path):
    load("sd").save_adapter(tmp_path / "begun")
    with pytest.raises(
        ConfigError, match=rf"model\.lora\.{name}: the adapter in .* has {name} .*, got {wanted:g}; leave"
    ):
        go_on("sd", tmp_path / "begun", **{name: wanted})
    same = {"rank": LORA.rank, "alpha": LORA.alpha}[name]
    go_on("sd", tmp_path / "begun", **{name: same})


def test_what_is_no_lora_of_the_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.lora\.start: no such file or folder"):
        go_on("sd", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"model\.lora\.start: .*empty is not a LoRA of this model"):
        go_on("sd", tmp_path / "empty")
    (tmp_path / "lora.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.lora\.start: .*lora\.pt is not a \.safetensors file"):
        go_on("sd", tmp_path / "lora.pt")
    load("sd3").save_adapter(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"model\.lora\.start: .*it adapts transformer, and only the unet can be"):
        go_on("sd", tmp_path / "other")
    load("sdxl").save_adapter(tmp_path / "larger")
    with pytest.raises(ConfigError, match=r"model\.lora\.start: .*larger is not a LoRA of this model"):
        go_on("sd", tmp_path / "larger")
    shutil.rmtree(tmp_path / "larger")
