"""Settings with `task: reward`: what is accepted, what is said of what is not, and what is written back."""

from __future__ import annotations

from typing import Any

import pytest

from diffalign.config import (
    RewardRunConfig,
    load_alignment,
    load_config,
    parse_config,
    save_config,
    with_absolute_paths,
)
from diffalign.exceptions import ConfigError


def settings(**sections: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "task": "reward",
        "reward": {"body": {"name": "small"}},
        "data": {"path": "pairs"},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"steps": 10, "records": 4},
    }
    return base | {
        name: base.get(name, {}) | each if isinstance(each, dict) else each for name, each in sections.items()
    }


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"task": "rewards"}, "task: must be 'reward', or be left out of a config that aligns a model, got 'rewards'"),
        ({"model": {"path": "x"}}, "model: unknown key"),
        (
            {"reward": {"body": {"name": "smal"}}},
            "reward.body.name: must be one of 'small', 'clip', got 'smal'; did you mean",
        ),
        ({"reward": {"body": {"name": "small", "widht": 3}}}, "reward.body.widht: unknown key; did you mean 'width'?"),
        ({"reward": {"dimensions": []}}, "reward.dimensions: must have at least 1, got 0"),
        ({"reward": {"dimensions": ["VQ", "VQ"]}}, "reward.dimensions: each may stand there once, got VQ, VQ"),
        ({"reward": {"weights": {"TA": 1}}}, "reward.weights.TA: is not in reward.dimensions (overall)"),
        ({"loss": {"name": "bradley_terry_ties", "theta": 1}}, "loss.theta: must be > 1, got 1"),
        ({"loss": {"name": "bradley_terry", "theta": 5}}, "loss.theta: unknown key"),
        ({"loss": {"name": "regression"}}, "loss.name: 'regression' needs rewards, which data.kind: groups has"),
        ({"data": {"margin": 0.1}}, "data.margin: is of data.kind: groups"),
        ({"data": {"held_out": 1.0}}, "data.held_out: must be < 1, got 1.0"),
        ({"data": {"columns": {"items": "x"}}}, "data.columns.items: is no column of data.kind: pairs"),
        (
            {"data": {"kind": "groups"}, "reward": {"dimensions": ["VQ"]}},
            "reward.dimensions: records of data.kind: groups speak of overall alone, got VQ",
        ),
        ({"training": {"contrast_dimension": "VQ"}}, "training.contrast_dimension: 'VQ' is not in reward.dimensions"),
        ({"optimizer": {"warmup_steps": 10}}, "optimizer.warmup_steps: must be < training.steps (10), got 10"),
        (
            {"reward": {"body": {"name": "clip"}}, "training": {"shift": 2}},
            "training.shift: CLIP's vectors are made once",
        ),
        (
            {"training": {"contrast": 1, "contrast_others": 4}},
            "training.contrast_others: must be < training.records (4), got 4",
        ),
        ({"training": {"contrast_swaps": [["left", "right"]]}}, "training.contrast_swaps: has no effect without"),
        (
            {"training": {"contrast": 1, "contrast_swaps": [["left of", "right"]]}},
            "training.contrast_swaps.0.0: must match",
        ),
        ({"log": {"trackers": ["wandb"]}}, "log.trackers: a run of task: reward writes metrics.jsonl alone"),
    ],
)
def test_problems(sections, problem):
    with pytest.raises(ConfigError) as caught:
        parse_config(settings(**sections))
    assert problem in str(caught.value)
    assert str(caught.value).startswith("1 problem"), caught.value


def test_round_trip(tmp_path):
    config = parse_config(
        settings(reward={"dimensions": ["VQ", "TA"], "weights": {"VQ": 0.5}}), ["loss.name=bradley_terry"]
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match="of task: reward, and this is for runs that align a model"):
        load_alignment(tmp_path / "config.yaml")


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pairs", "clip"):
        (tmp_path / name).mkdir()
    config = parse_config(settings(reward={"body": {"name": "clip", "model": "clip"}}, data={"cache": "c"}))
    assert isinstance(config, RewardRunConfig)
    found = with_absolute_paths(config)
    assert found.data.path == str(tmp_path / "pairs") and found.data.cache == str(tmp_path / "c")
    assert found.reward.body.model == str(tmp_path / "clip")  # type: ignore[union-attr]
    assert with_absolute_paths(found) == found
    elsewhere = parse_config(settings(data={"path": "hf://a/b"}))
    assert with_absolute_paths(elsewhere).data.path == "hf://a/b"


def test_which_head_learns_the_contrast():
    two = {"dimensions": ["VQ", "TA"]}
    assert parse_config(settings(reward=two)).contrast_head == 0  # type: ignore[union-attr]
    assert parse_config(settings(reward=two, training={"contrast_dimension": "TA"})).contrast_head == 1  # type: ignore[union-attr]
