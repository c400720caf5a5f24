"""The text of a zoo model's card, and where its facts come from."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
import torch

from diffalign.data import ShippedLatents, save_latents
from makers.shapes_card import write_readme
from makers.shapes_preferences import _facts, facts_of, parser
from makers.shapes_recipes import RECIPES

REWARDS = torch.tensor([[2.0, 1.0, 0.5, 0.0], [2.0, 0.5, 0.5, 0.5]])
DRAWN = {
    "groups": 2,
    "members": 4,
    "pairs": 3,
    "captions": 1400,
    "pictures_per_caption": 4,
    "least_gap": 0.1,
    "sampler": "DDIM",
    "steps": 12,
    "guidance_scale": 1.0,
    "seed": 10_000,
    "strict": 0.41,
}


def card(name: str) -> dict:
    recipe = RECIPES[name]
    return defaultdict(
        float,
        summary=recipe.summary,
        strict_by_kind={"one": 0.5},
        parameters={"unet": 7},
        seeds="0 to 1",
        maker=f"python -m makers.shapes_all {name}",
        commands=[step.command() for step in recipe.steps],
        preferences=DRAWN,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_summary_keeps_its_names_as_they_are_spelt(name):
    summary = RECIPES[name].summary
    assert f"\n{summary[0].upper()}{summary[1:]}. The real" in write_readme(name, card(name), ["a red circle"])


def test_the_card_states_every_command_seed_and_how_the_preferences_were_drawn():
    text = " ".join(write_readme("shapes-sd", card("shapes-sd"), ["a red circle"]).split())
    for part in (
        "python -m makers.shapes_vae --out build/shapes-vae --seed 0",
        "--out build/sd-1 --seed 0",
        "--scenes 40000 --seed 1",
        "--scenes 40000 --seed 2",
        "2 groups of 4 pictures",
        "they are 3",
        "1,400 captions 4 pictures each were drawn with DDIM, 12 steps, guidance scale 1, seeds from 10,000",
        "passes 41.0% of these pictures",
    ):
        assert part in text


def test_a_set_says_how_it_was_drawn_and_is_read_as_ever(tmp_path):
    from diffalign.pipelines import ImageGenerator
    from tests.backbones.models import load

    options = parser().parse_args(["--model", "m", "--out", "o", "--guidance-scale", "1", "--captions", "1400"])
    generator = ImageGenerator.create(load("sd", lora=None), steps=12)
    path = tmp_path / "preferences.safetensors"
    about = {"autoencoder": "f", "facts": json.dumps(_facts(options, generator, REWARDS, 1400, 0.41))}
    save_latents(path, torch.zeros(1, 2, 4, 2, 2), torch.tensor([[1.0, 0.0]]), ["a red circle"], [0], about)
    assert facts_of(path) == DRAWN
    assert ShippedLatents(path, "f").records == [("group-0", "a red circle")]


def test_a_set_without_its_facts_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no preference set"):
        facts_of(tmp_path / "absent.safetensors")
    path = tmp_path / "old.safetensors"
    save_latents(path, torch.zeros(1, 2, 1), torch.zeros(1, 2), ["a"], [0], {"autoencoder": "f"})
    with pytest.raises(SystemExit, match="says nothing of how it was drawn"):
        facts_of(path)
