"""The makers of the emoji model, at a scale of seconds: pictures, recipe, training that goes on, pairs, card."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from diffalign.data import ShippedLatents, read_prompts
from makers import (
    emoji_all,
    emoji_card,
    emoji_pictures,
    emoji_preferences,
    emoji_sd3,
    emoji_vae,
    shapes_all,
)
from makers.emoji_pictures import COMMON, FONT, draw_emoji, emoji, held_out_names, is_sign
from makers.emoji_recipes import RECIPES

needs_font = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")


def call(module, monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


@pytest.fixture
def few(monkeypatch):
    """The makers see 24 emoji, the common ones among them, and hold out four."""
    names = set(COMMON) | {"rocket", "onion", "tiger", "cactus"}
    chosen = tuple(one for one in emoji() if one.name in names)
    for module in (emoji_vae, emoji_sd3, emoji_preferences, emoji_card):
        monkeypatch.setattr(module, "emoji", lambda: chosen)
    for module in (emoji_preferences, emoji_card):
        monkeypatch.setattr(module, "held_out_names", lambda: ["rocket", "onion", "tiger", "cactus"])
    return chosen


def test_signs_are_told_from_things():
    for name in ("clock face one oclock", "squared ok", "black right-pointing triangle", "heavy plus sign", "aries"):
        assert is_sign(name)
    for name in ("red heart", "alarm clock", "thumbs up sign", "cancerous"):
        assert not is_sign(name)


@needs_font
def test_names_and_pictures():
    names = [one.name for one in emoji()]
    assert len(set(names)) == len(names) == 1141
    assert set(COMMON) <= set(names) and len(set(COMMON)) == 20
    assert not any(is_sign(name) for name in names)
    pictures = draw_emoji([one for one in emoji() if one.name in ("red heart", "sun", "cloud")])
    assert pictures.shape == (3, 3, 32, 32) and pictures.dtype == torch.uint8
    assert (pictures[:, :, 0, 0] == 255).all()
    heart = pictures[2, :, 16, 16].tolist()  # in the order of their codes
    assert heart[0] > 200 and max(heart[1:]) < 80


@needs_font
def test_held_out_names_stay_the_same():
    names = held_out_names()
    assert len(set(names)) == 120
    assert names == held_out_names() == read_prompts(import_module("diffalign.zoo").locate("zoo://emoji-sd3/held_out"))


def test_no_font_says_where_it_is_from(monkeypatch, tmp_path):
    monkeypatch.setattr(emoji_pictures, "FONT", tmp_path / "absent.ttf")
    with pytest.raises(SystemExit, match=r"absent\.ttf: no such font; install it with: apt-get install fonts-noto"):
        emoji_pictures.load_font.__wrapped__()


def test_moving_brings_in_white_and_keeps_what_it_shows():
    pictures = torch.full((64, 3, 32, 32), 1.0)
    pictures[:, :, 10, 20] = -1.0
    moved = emoji_vae.move(pictures, torch.Generator().manual_seed(0))
    assert moved.shape == pictures.shape
    rows, columns = np.nonzero((moved[:, 0] == -1).numpy())[1:]
    assert len(rows) == 64  # one dark pixel each, as before
    assert set(rows) == {8, 9, 10, 11, 12}
    assert set(columns) == {18, 19, 20, 21, 22} | {9, 10, 11, 12, 13}  # mirrored: 31 - 20


def test_rate_rises_stays_and_falls():
    assert emoji_sd3.rate(0, 4000) == 1 / 200
    assert emoji_sd3.rate(1500, 4000) == emoji_sd3.rate(3000, 4000) == 1
    assert emoji_sd3.rate(3500, 4000) == 0.5
    assert emoji_sd3.rate(1500, 4000) == emoji_sd3.rate(1500, 6000)  # where a longer schedule agrees


def test_a_new_transformer_predicts_nothing():
    transformer = emoji_sd3.build_transformer(4, 2, 8, 2)
    given = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 96), torch.randn(2, 96), torch.tensor([1.0, 900.0])
    assert not transformer(*given).sample.any()


def test_recipe_can_be_typed_and_reads_what_was_made(tmp_path):
    made = set()
    steps = list(shapes_all.steps_left("emoji-sd3", tmp_path, RECIPES))
    assert [step.module for step in steps] == [f"makers.emoji_{part}" for part in ("vae", "sd3", "preferences", "card")]
    for step in steps:
        words = step.arguments(str(tmp_path))
        options = import_module(step.module).parser().parse_args(words)
        assert (getattr(options, "out", None) or options.model / "card.json") == tmp_path / step.makes
        assert {words[at + 1] for at, word in enumerate(words) if word in ("--vae", "--model")} <= made
        made.add(str(tmp_path / step.makes))


def test_all_passes_over_what_is_there(tmp_path, monkeypatch, capsys):
    (tmp_path / "emoji-vae").mkdir()
    monkeypatch.setattr(sys, "argv", ["emoji_all", "emoji-sd3", "--build", str(tmp_path), "--dry"])
    emoji_all.main(emoji_all.__doc__, RECIPES)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == [
        "makers.emoji_sd3", "makers.emoji_preferences", "makers.emoji_card",
    ]  # fmt: skip


@pytest.mark.slow
@needs_font
def test_from_nothing_to_a_card(few, monkeypatch, tmp_path):
    vae, model, whole = tmp_path / "vae", tmp_path / "emoji-sd3", tmp_path / "whole"
    call(emoji_vae, monkeypatch, "--out", vae, "--steps", 2, "--batch", 2)
    common = ("--vae", vae, "--batch", 2, "--heads", 1, "--head-width", 8, "--layers", 1)
    call(emoji_sd3, monkeypatch, "--out", model, *common, "--stop", 2)
    call(emoji_sd3, monkeypatch, "--out", model, *common, "--stop", 4)  # goes on
    call(emoji_sd3, monkeypatch, "--out", whole, *common, "--stop", 4)
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        halves = next((model / part).glob("*.safetensors")).read_bytes()
        assert halves == next((whole / part).glob("*.safetensors")).read_bytes()
    backbone = emoji_preferences.load_shapes(str(model))
    pipeline = backbone.pipeline
    assert isinstance(pipeline, StableDiffusion3Pipeline)
    assert pipeline.tokenizer(["red heart"]).input_ids == pipeline.tokenizer_2(["red heart"]).input_ids
    assert len(pipeline.tokenizer("red heart").input_ids) == 4  # a token a word, begin and end
    picture = pipeline("red heart", num_inference_steps=2, max_sequence_length=1, output_type="np").images
    assert picture.shape == (1, 32, 32, 3)

    preferences = model / "preferences.safetensors"
    call(emoji_preferences, monkeypatch, "--model", model, "--out", preferences, "--names", 6, "--steps", 2)
    pairs = ShippedLatents(preferences, backbone.autoencoder_identity(), "pairs")
    asked = {prompt for _, prompt in pairs.records}
    assert len(asked) == 6 and asked <= set(COMMON)
    first = next(one for one in few if one.name == pairs.records[0][1])
    designed = backbone.encode(draw_emoji([first]).float() / 255)[0]
    torch.testing.assert_close(pairs.of(0, 0, ""), torch.stack([designed, pairs.of(0, 0, "")[1]]), atol=4e-3, rtol=2e-3)

    call(emoji_card, monkeypatch, "--model", model, "--recognised", 3, "--steps", 2)
    card = json.loads((model / "card.json").read_text("utf-8"))
    assert card["family"] == "sd3" and card["held_out_names"] == 4 and card["preferences"]["pairs"] == 6
    assert set(card["emoji_reward"]) == {"guidance 1", "guidance 2"}
    readme = " ".join((model / "README.md").read_text("utf-8").split())
    assert "by eye 3 of 20 common names are recognisable" in readme
    assert "6 pairs. Chosen: the designers' emoji" in readme
    assert "SIL Open Font License 1.1" in readme and "20. crescent moon" in readme
    assert (model / "common.png").is_file()


def test_muon_takes_the_matrices_of_the_blocks_alone():
    modules = {"transformer": emoji_sd3.build_transformer(4, 1, 8, 2)}
    options = argparse.Namespace(optimizer="muon", learning_rate=1e-3, muon_rate=2e-3)
    muon, adam = emoji_sd3.build_optimizers(modules, options)
    inner = [p for group in muon.param_groups for p in group["params"]]
    outer = [p for group in adam.param_groups for p in group["params"]]
    assert inner and all(p.ndim == 2 for p in inner)
    assert len(inner) + len(outer) == len(list(modules["transformer"].parameters()))
