"""Runs of a few steps on the zoo."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from diffalign.config import RunConfig, parse_config

CLOCKS = ("seconds_per_step", "seconds_per_round")
DPO = {"name": "diffusion_dpo", "beta": 500.0}


@cache
def shared_cache() -> str:
    """A folder for the caches of all runs of this process that do not look at their caches: texts are encoded once."""
    home = tempfile.mkdtemp(prefix="diffalign-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def tiny_settings(home: Path, *, family: str = "sd", **sections: Any) -> dict[str, Any]:
    """A nested dict as a config file holds it; each section given is laid over the tiny one."""
    zoo = {"sd": "zoo://shapes-sd", "sd3": "zoo://shapes-sd3"}[family]
    base: dict[str, Any] = {
        "name": "tiny",
        "folder": str(home / "runs"),
        "device": "cpu",
        "model": {"family": family, "path": zoo, "lora": {"rank": 2, "alpha": 2}},
        "data": {"path": f"{zoo}/preferences", "cache": str(home / "cache")},
        "objective": DPO,
        "optimizer": {"learning_rate": 1e-3},
        "training": {"steps": 4, "groups": 2},
    }
    if family == "sd3":
        base["model"]["max_sequence_length"] = 1
    for name, section in sections.items():
        base[name] = (
            base[name] | section if isinstance(section, Mapping) and name in base and name != "objective" else section
        )
    return base


def tiny(home: Path, **sections: Any) -> RunConfig:
    return parse_config(tiny_settings(home, **sections))


def rows(run: Path, event: str = "step") -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


def timeless(run: Path) -> list[dict[str, Any]]:
    """All rows of a run without what a clock says and without the marks of resuming."""
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in every:
        for clock in CLOCKS:
            row.pop(clock, None)
    return [row for row in every if row["event"] != "resume"]


def adapter(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "adapter").glob("*.safetensors")
    return load_file(file)


def trainer_state(run: Path, step: int) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"step-{step}" / "trainer.pt", weights_only=True)


def assert_equal(first: Any, second: Any, path: str = "") -> None:
    """Two nested states are equal to the bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, Mapping):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{path}.{number}")
    else:
        assert first == second or (first != first and second != second), path  # NaN is NaN


def assert_same_run(first: Path, second: Path, step: int) -> None:
    """Adapter, all of the last checkpoint, and metrics are equal to the bit."""
    assert_equal(adapter(first), adapter(second), "adapter")
    states = [trainer_state(run, step) for run in (first, second)]
    for state in states:
        for row in state["health"]["recent"]:
            for clock in CLOCKS:
                row.pop(clock, None)
    assert_equal(*states, "trainer")
    for name in ("policy", "ema"):
        files = [run / "checkpoints" / f"step-{step}" / f"{name}.safetensors" for run in (first, second)]
        assert files[0].exists() == files[1].exists()
        if files[0].exists():
            assert_equal(load_file(files[0]), load_file(files[1]), name)
    assert timeless(first) == timeless(second)
