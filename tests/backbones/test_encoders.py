"""Text encoders and autoencoder leave memory, and come back when they are needed."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch
from diffusers import DiffusionPipeline

from diffalign.backbones import FullSettings
from diffalign.backbones.encoders import is_hollow
from tests.backbones.models import FAMILIES, PROMPTS, load, load_fresh, path_of

PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_gone_and_come_back_as_they_were(family, caplog):
    backbone = load_fresh(family)
    texts, latents = backbone.text(PROMPTS), backbone.posterior(PICTURES).mean
    prints = {part: backbone.fingerprint(part) for part in ("text", "vae")}
    names = [*backbone.encoders.names("text"), "vae"]
    parts = [getattr(backbone.pipeline, name) for name in names]
    gone = [weakref.ref(parameter) for part in parts for parameter in part.parameters()]
    del parts
    backbone.free_encoders("text", "vae")
    gc.collect()
    assert gone and all(each() is None for each in gone)
    assert all(is_hollow(getattr(backbone.pipeline, name)) for name in names)
    assert {part: backbone.fingerprint(part) for part in prints} == prints
    assert backbone.device.type == "cpu" and backbone.sample_shape() == latents.shape[1:]
    with caplog.at_level(logging.INFO):
        again = backbone.text(PROMPTS)
        backbone.text(PROMPTS[:1])
    assert caplog.text.count("read again") == 1
    assert not backbone.encoders.has("vae"), "only what was asked for"
    assert all(torch.equal(again[name], texts[name]) for name in texts)
    assert torch.equal(backbone.posterior(PICTURES).mean, latents)
    assert {part: backbone.fingerprint(part) for part in prints} == prints


def test_they_come_back_in_the_precision_that_they_had():
    backbone = load_fresh("sdxl", dtype=torch.float16)
    before = {name: each.dtype for name, each in backbone.pipeline.vae.named_parameters()}
    assert torch.float32 in before.values(), "SDXL's autoencoder overflows in fp16"
    backbone.free_encoders("vae", "text")
    backbone.decode(torch.zeros(1, *backbone.sample_shape()))
    assert {name: each.dtype for name, each in backbone.pipeline.vae.named_parameters()} == before
    backbone.encoders.need("text")
    assert backbone.pipeline.text_encoder_2.dtype == torch.float16


def test_known_texts_need_no_encoder():
    backbone = load_fresh("sd")
    texts = backbone.text(["a", "b", ""])
    rows = {prompt: {name: leaf[row] for name, leaf in texts.items()} for row, prompt in enumerate(["a", "b", ""])}

    def known(asked):
        if not rows.keys() >= set(asked):
            return None
        return {name: torch.stack([rows[prompt][name] for prompt in asked]) for name in texts}

    backbone.encoders.know_texts(known)
    backbone.free_encoders("text")
    condition = backbone.condition(["b", "a"])
    assert torch.equal(condition.leaves["states"], texts["states"][[1, 0]])
    assert not backbone.encoders.has("text")
    backbone.condition(["c"])
    assert backbone.encoders.has("text")


def test_a_whole_model_is_saved_with_all_its_parts(tmp_path):
    backbone = load_fresh("sd", None, full=FullSettings())
    backbone.free_encoders("text", "vae")
    backbone.save_adapter(tmp_path / "model")
    assert not backbone.encoders.has("text") and not backbone.encoders.has("vae")
    saved = DiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    expected = load_fresh("sd", None).pipeline
    for name in ("vae", "text_encoder", "unet"):
        found = getattr(saved, name).state_dict()
        assert all(torch.equal(found[key], each) for key, each in getattr(expected, name).state_dict().items()), name


def test_what_cannot_be_read_again_stays():
    backbone = load("sd")  # made around a pipeline, from no path
    backbone.free_encoders("text", "vae")
    assert backbone.encoders.has("text") and backbone.encoders.has("vae")


def test_a_network_that_waits_is_left_alone():
    from diffalign.backbones import load_backbone

    backbone = load_backbone("sd", path_of("sd"), device="meta", network_waits=True)
    assert backbone.device.type == "cpu"
    assert backbone.encoders.device("text").type == backbone.encoders.device("vae").type == "meta"
