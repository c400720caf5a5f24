"""FSDP2 on gloo: two processes with pieces of the networks do what one process with all of them does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffalign.backbones import load_backbone
from diffalign.config import parse_config
from diffalign.exceptions import ConfigError
from diffalign.training import sharding
from diffalign.training.sharding import blocks_of, check_sharding
from tests.training.sharded_steps import CASES, case_config, steps_of
from tests.training.tiny import tiny, tiny_settings
from tests.training.torchrun import run_processes


@pytest.fixture(scope="module", params=["sd", "sd3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What two processes made of the cases of a family."""
    home = tmp_path_factory.mktemp("sharded")
    cases = [case for case in CASES if CASES[case].get("family", "sd") == request.param]
    code, _, err = run_processes(home, "-m", "tests.training.sharded_steps", str(home), *cases)
    assert code == 0, err
    return home, cases


@pytest.mark.slow
def test_pieces_train_as_the_whole(pair):
    for case in pair[1]:
        _compare_with_one(pair[0], case)


def _compare_with_one(home: Path, case: str) -> None:
    trainer, alone, tensors = steps_of(home, case_config(home, case, 1))
    both = [json.loads((home / f"{case}-{rank}.json").read_text()) for rank in (0, 1)]
    for name in ("loss", "gradient_norm", "winner_error"):
        seen = [[step[name] for step in each["metrics"]] for each in (*both, alone)]
        torch.testing.assert_close(seen[0], seen[2], rtol=2e-5, atol=1e-6)
        assert seen[0] == seen[1]  # every process knows the figures of all
    found = load_file(home / f"{case}.safetensors")
    views = {name.partition(".")[0] for name in found}
    assert views == {"policy", "pictures"} | ({"ema"} if "ema" in case else set())
    torch.testing.assert_close(found, tensors, rtol=1e-5, atol=2e-6)
    assert not torch.equal(tensors["pictures"][0], tensors["pictures"][1])
    base = load_backbone(trainer.backbone.family, trainer.config.model.path)
    if trainer.config.model.train == "full":
        moved = {name: tensor for name, tensor in base.network.state_dict().items()}
        assert any(not torch.allclose(found[f"policy.{name}"], each, atol=1e-5) for name, each in moved.items())
    else:
        assert any(bool(tensor.any()) for name, tensor in found.items() if "lora_B" in name)


@pytest.mark.slow
def test_every_process_holds_half(pair):
    """All of the network that is trained, and of the frozen ones beside it: a tensor of 3 rows is 2 and 1."""
    home, cases = pair
    for case in cases:
        parts = [json.loads((home / f"{case}-{rank}.json").read_text()) for rank in (0, 1)]
        for part in parts:
            assert part["whole"] == part["total"]
            assert part["local"] == pytest.approx(part["total"] / 2, rel=0.02)
        assert sum(part["local"] for part in parts) == parts[0]["total"]


# ---------------------------------------------------------------- what needs no second process


@pytest.mark.parametrize(
    ("family", "kinds"), [("sd", {"BasicTransformerBlock", "ResnetBlock2D"}), ("sd3", {"JointTransformerBlock"})]
)
def test_blocks_are_those_of_diffusers(family, kinds):
    network = load_backbone(family, {"sd": "zoo://shapes-sd", "sd3": "zoo://shapes-sd3"}[family]).network
    blocks = blocks_of(network)
    assert {type(block).__name__ for block in blocks} >= kinds
    held = {id(parameter) for block in blocks for parameter in block.parameters()}
    share = sum(each.numel() for each in network.parameters() if id(each) in held) / sum(
        each.numel() for each in network.parameters()
    )
    assert share > 0.6  # what is left is gathered as one with the root


def test_blocks_of_a_network_that_names_none():
    network = nn.Module()
    network.layers = nn.ModuleList([nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 2)])
    network.head = nn.Linear(2, 2)
    assert blocks_of(network) == [network.layers[0], network.layers[2]]


def test_old_torch_cannot_mix_precisions(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding.torch, "__version__", "2.8.1+cu126")
    check_sharding(tiny(tmp_path, training={"sharding": "fsdp2"}))
    check_sharding(tiny(tmp_path, model={"precision": "bf16"}))
    check_sharding(
        tiny(tmp_path, model={"train": "full", "lora": {}, "precision": "bf16"}, training={"sharding": "fsdp2"})
    )
    config = tiny(tmp_path, model={"precision": "bf16"}, training={"sharding": "fsdp2"})
    with pytest.raises(ConfigError, match=r"precision: bf16 with torch 2\.9 or newer, and this is 2\.8\.1"):
        check_sharding(config)
    monkeypatch.setattr(sharding.torch, "__version__", "2.10.0")
    check_sharding(config)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"training": {"sharding": "fsdp2", "mixed_precision": "fp16"}},
            "training.mixed_precision: 'fp16' cannot be used",
        ),
        (
            {"training": {"sharding": "fsdp2"}, "model": {"train": "full", "lora": {}, "reference": {"device": "cpu"}}},
            "model.reference.device: with training.sharding: fsdp2 the reference is in pieces",
        ),
        ({"training": {"sharding": "fsdp"}}, "training.sharding: must be 'none' or 'fsdp2', got 'fsdp'"),
    ],
)
def test_what_cannot_be_sharded(tmp_path, sections, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(tiny_settings(tmp_path, **sections))
