"""A volume model learns from the simulator: labels from a threshold, pairs, and what the run folder says of shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import diffalign
from diffalign.config import RunConfig, parse_config
from diffalign.evaluation import evaluate
from diffalign.exceptions import ConfigError
from diffalign.reports import write_report
from diffalign.rewards import StabilityReward
from diffalign.training.lessons import labels_from, lesson_of
from tests.backbones.models import path_of
from tests.training.tiny import adapter, rows, shared_cache

PROMPTS = ["a red circle", "two green crosses", "a blue square", "a white triangle"]
STABILITY = {"name": "stability", "form": "margin"}


def settings(home: Path, objective: dict[str, Any], **online: Any) -> dict[str, Any]:
    (home / "prompts.txt").write_text("\n".join(PROMPTS))
    return {
        "name": "shapes",
        "folder": str(home / "runs"),
        "device": "cpu",
        "model": {"family": "volume", "path": path_of("volume"), "lora": {"rank": 2, "alpha": 2}},
        "data": {"kind": "prompts", "path": str(home / "prompts.txt"), "cache": shared_cache()},
        "objective": objective,
        "online": {"members": 4, "rewards": [STABILITY], "sampler": {"name": "flow_euler", "steps": 2}} | online,
        "optimizer": {"learning_rate": 1e-3},
        "training": {"steps": 2, "groups": 2},
        "samples": {"every": 1, "count": 2},
        "evaluation": {
            "prompts": str(home / "prompts.txt"),
            "rewards": [STABILITY],
            "trained_reward": "stability",
            "sampler": {"name": "flow_euler", "steps": 2},
        },
    }


def config_of(home: Path, objective: dict[str, Any], **online: Any) -> RunConfig:
    return parse_config(settings(home, objective, **online))


@pytest.mark.parametrize(
    ("objective", "online"),
    [
        ({"name": "dso_dro"}, {"good_from": 0.0}), ({"name": "dso_dro"}, {}),
        ({"name": "diffusion_dpo", "beta": 100.0}, {}), ({"name": "diffusion_kto"}, {"good_from": 0.0}),
    ],
)  # fmt: skip
def test_a_run_draws_judges_learns_and_compares(tmp_path, objective, online):
    config = config_of(tmp_path, objective, **online)
    run = diffalign.train(config)
    steps = rows(run.folder)
    assert len(steps) == 2 and all("round_stability" in row or row["step"] > 1 for row in steps)
    assert any(tensor.abs().max() > 0 for name, tensor in adapter(run.folder).items() if "lora_B" in name)
    evaluate(run.generator, PROMPTS, config.evaluation, run.folder, trained_on=config.trained_on)
    write_report(run.folder)
    summary = json.loads((run.folder / "evaluation" / "summary.json").read_text())
    assert summary["rewards"]["stability"]["trained_on"] and summary["rewards"]["stability"]["scored"] == 4
    assert summary["geometry"]["compared"] == 4 and 0 <= summary["geometry"]["shared"] <= 1
    assert "1 - IoU" in summary["diversity"]["measure"]
    assert (run.folder / "evaluation" / "base" / "00003.png").is_file()
    drawn = rows(run.folder, "samples")
    assert len(drawn) == 3 and all(0 < row["volume"] < 1 for row in drawn)
    assert (run.folder / "samples" / "step-1.png").is_file()
    page = (run.folder / "report.html").read_text()
    assert "chamfer" in page and "f_score" in page and "Volume of the samples" in page


def test_a_model_of_which_nothing_is_good_trains_without_an_error_of_good_shapes(tmp_path):
    told = settings(tmp_path, {"name": "dso_dro"}, good_from=2.0) | {"health": {"window": 1}}
    run = diffalign.train(parse_config(told))
    steps = rows(run.folder)
    assert len(steps) == 2 and all("good_error" not in row and row["bad_error"] > 0 for row in steps)


def test_labels_come_from_the_threshold_and_all_members_teach(tmp_path):
    config = config_of(tmp_path, {"name": "dso_dro"}, good_from=0.5)
    nan = torch.nan
    rewards = torch.tensor([[[1.0, 0.0, 1.0, nan], [0.0, 0.0, 0.0, 0.0], [nan] * 4, [1.0] * 4]])
    lesson = lesson_of(config, rewards)
    assert lesson.order.tolist() == [[0, 1, 2, 3]] * 4
    assert lesson.valid.tolist() == [True, True, False, True]  # one-sided prompts too
    taught = lesson.taught(slice(0, 4), [torch.Generator() for _ in range(4)])
    labels = labels_from(0.5, taught.reward, taught.told)
    assert labels.tolist() == [[1, -1, 1, 0], [-1] * 4, [0] * 4, [1] * 4]
    pairs = lesson_of(config_of(tmp_path, {"name": "dso_dro"}), rewards)
    assert pairs.valid.tolist() == [True, False, False, False]
    assert pairs.order[0].tolist() == [0, 1]


def test_a_shape_of_nothing_loses_to_one_that_stands_and_is_labelled_bad(tmp_path):
    cube, nothing = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    cube[:, :2, :2, :2] = 1
    scores = StabilityReward()(torch.stack([nothing, cube, nothing, nothing]))
    rewards = scores.reshape(1, 1, 4).expand(1, 4, 4)
    pairs = lesson_of(config_of(tmp_path, {"name": "diffusion_dpo", "beta": 100.0}), rewards)
    assert pairs.valid.all() and pairs.order.tolist() == [[1, 0]] * 4
    lesson = lesson_of(config_of(tmp_path, {"name": "dso_dro"}, good_from=0.5), rewards)
    taught = lesson.taught(slice(0, 4), [torch.Generator() for _ in range(4)])
    assert labels_from(0.5, taught.reward, taught.told).tolist() == [[-1, 1, -1, -1]] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": {"rewards": [{"name": "jpeg"}]}}, "evaluation.rewards: 'jpeg' judges pictures, and the model"),
        ({"online": {"rewards": [{"name": "scene"}]}}, "online.rewards: 'scene' judges pictures, and the model"),
        ({"model": {"family": "sd", "path": "zoo://shapes-sd"}}, "'stability' judges shapes, and the model draws pictures"),
        ({"online": None, "data": {"kind": "pairs"}}, "data.kind: records hold pictures, and model.family 'volume' draws"),
        ({"objective": {"name": "gdro"}, "online": {"good_from": 0.5}}, "online.good_from: 'gdro' takes no labels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(tmp_path, change, message):
    told = settings(tmp_path, {"name": "dso_dro"})
    for section, values in change.items():
        told[section] = values if section == "objective" or values is None else told[section] | values
    with pytest.raises(ConfigError) as caught:
        parse_config(told)
    assert message in str(caught.value)
