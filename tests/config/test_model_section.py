"""What of the section `model` goes with what: LoRA, full fine-tuning, a start, a quantised base."""

from __future__ import annotations

import pytest

from diffalign.config import load_config, parse_config, save_config
from diffalign.config.yaml_values import write_yaml
from tests.config.minimal import problems_of, settings

START = "model.lora.start=some.safetensors"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.train=full", "model.lora.rank=4"], "model.lora: is of model.train: lora, and that is 'full'"),
        (["model.train=full", START], "model.lora: is of model.train: lora, and that is 'full'"),
        (
            ["model.reference.precision=bf16"],
            "model.reference: is of model.train: full (a LoRA's reference is its own base",
        ),
        (["model.reference.device=cpu"], "model.reference: is of model.train: full"),
        (["model.reference.device=cuda"], "model.reference.device: must be"),
        (["model.train=full", "model.quantise=4bit"], "model.quantise: is for the frozen base of model.train: lora"),
        (["model.quantise=8bit", "model.path=x.safetensors"], "model.quantise: needs a model in diffusers' format"),
        (["model.quantise=3bit"], "model.quantise: must be"),
        (["model.lora.rank=null"], "model.lora.rank: must be a number where there is no model.lora.start"),
        (["model.lora.alpha=null"], "model.lora.alpha: must be a number where there is no model.lora.start"),
        ([START, "model.lora.targets=[to_q]"], "model.lora.targets: model.lora.start brings its own"),
        (["model.train=both"], "model.train: must be"),
        (["optimizer.name=lion"], "optimizer.name: must be"),
    ],
)
def test_what_does_not_go_together(overrides, says):
    (problem,) = problems_of(*overrides)
    assert problem.startswith(says), problem


def test_a_start_brings_its_rank_and_alpha_unless_they_are_given():
    assert (parse_config(settings()).model.lora.rank, parse_config(settings()).model.lora.alpha) == (8, 8.0)
    lora = parse_config(settings(), [START]).model.lora
    assert (lora.rank, lora.alpha) == (None, None)
    lora = parse_config(settings(), [START, "model.lora.rank=4"]).model.lora
    assert (lora.rank, lora.alpha) == (4, None)


def test_a_resolved_start_is_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.safetensors").write_bytes(b"")
    (tmp_path / "x.yaml").write_text(write_yaml(settings()), encoding="utf-8")
    config = load_config("x.yaml", [START])
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(str(tmp_path / "resolved.yaml")).model.lora == config.model.lora


@pytest.mark.parametrize(("train", "result"), [("lora", "adapter"), ("full", "model")])
def test_where_the_result_is_saved(train, result):
    assert parse_config(settings(), [f"model.train={train}"]).model.result == result
