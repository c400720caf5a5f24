"""The card of a run on shapes: what the Hub is told, code that runs as it stands, and the figures of form."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from diffalign.backbones import LoRASettings, load_backbone
from diffalign.config import load_config
from diffalign.sim import read_mesh
from diffalign.training.model_card import adapter_card, model_card

CAPTION = "a tall wide table on four thin legs reaching to the left"


def aligned():
    """The zoo's model with a LoRA that says something."""
    torch.manual_seed(0)
    backbone = load_backbone("volume", "zoo://blocks-volume", lora=LoRASettings(rank=2, alpha=2.0))
    for name, weight in backbone.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.5)
    return backbone


def test_the_code_on_a_card_of_shapes_draws_what_the_run_draws(tmp_path, monkeypatch):
    config = load_config("quickstart/dso_dpo.yaml", ["evaluation.sampler.steps=3"])
    card = model_card(config, tmp_path, 5)
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("diffalign", "text-to-3d")
    assert head["tags"][0] == "text-to-3d" and "shapes of each prompt" in card
    assert "picture" not in card and "diffusers\n" not in card and "image" not in card
    backbone = aligned()
    backbone.save_adapter(tmp_path / "adapter", "policy", card=card)
    code = card.split("```python")[1].split("```")[0]
    code = code.replace("THIS_FOLDER", "adapter").replace("your prompt", CAPTION)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert len(read_mesh("shape.glb").faces)
    pipe = names["pipe"]
    x_t = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    given = x_t, torch.tensor([500.0]), pipe.encode_prompt([CAPTION])
    with torch.no_grad():
        drawn, run = pipe.transformer(*given), backbone.network(*given)
        pipe.unload_lora_weights()
        base = pipe.transformer(*given)
    torch.testing.assert_close(drawn, run, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base, run, rtol=1e-2, atol=1e-2)


def test_figures_of_form(tmp_path):
    figures = {"difference": 0.01, "low": -0.02, "high": 0.04}
    reward = {"unit": "1", "base_mean": 0.5, "aligned_mean": 0.75, "trained_on": True, **figures}
    geometry = {
        "volume": {"base": 0.125, "aligned": 0.135, **figures}, "chamfer": 0.031, "shared": 0.62,
        "two_draws": {"chamfer": 0.055, "shared": 0.4},
    }  # fmt: skip
    summary = {"rewards": {"stability": reward}, "prompts": 8, "confidence": 0.95, "geometry": geometry}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(summary))
    card = model_card(load_config("quickstart/dso_dpo.yaml"), tmp_path, 5)
    assert "| volume | 0.125 | 0.135 | +0.01 (-0.02 to +0.04) |" in card
    assert "chamfer 0.031 (two draws of the base model: 0.055), shared 0.62 (two draws of the base model: 0.4)." in card


@pytest.mark.parametrize(
    ("base", "task"), [("microsoft/TRELLIS-image-large", "image-to-3d"), ("a/text-xl", "text-to-3d")]
)
def test_what_a_shape_is_made_from(base, task):
    model = load_config("quickstart/dso_dpo.yaml").model.model_copy(update={"path": base})
    card = adapter_card(model, "lora", "mine")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == task
    assert f'from_pretrained("{base}")' in card and ("picture.png" in card) == (task == "image-to-3d")
