"""Settings of several sections: whether they fit together, and what follows from them."""

from __future__ import annotations

import pytest

from diffalign.config import load_config, parse_config
from diffalign.exceptions import ConfigError
from tests.config.minimal import problems_of, settings


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["model.family=sd"],
            "objective.name: 'flow_dpo' needs a flow model (sd3, flux, volume), and model.family 'sd' is none; use",
        ),
        (
            ["model.family=sd", "objective={name: sft}", "evaluation.sampler={name: flow_euler}"],
            "evaluation.sampler.name: 'flow_euler' needs a flow model",
        ),
        (
            ["model.family=sdxl", "objective={name: sft}", "evaluation.sampler={name: flow_sde}"],
            "evaluation.sampler.name: 'flow_sde' needs a flow model (sd3, flux, volume), and model.family 'sdxl' is none; "
            "use ddim",
        ),
        (
            ["evaluation.sampler={name: flow_sde, form: cps, eta: 1.5}"],
            "evaluation.sampler.eta: must be <= 1 with evaluation.sampler.form: cps, got 1.5",
        ),
        (
            ["evaluation.sampler={name: flow_sde, form: dance, guard: 0.99}"],
            "evaluation.sampler.guard: is of form flow_grpo, and evaluation.sampler.form is 'dance'; leave it out",
        ),
        (
            ["evaluation.sampler={name: flow_sde, steps: 6, window: {first: 4, length: 3}}"],
            "evaluation.sampler.window: 3 steps from number 4 on do not lie within evaluation.sampler.steps (6)",
        ),
        (
            ["evaluation.sampler={name: flow_sde, window: {length: 3, schedule: random}}"],
            "evaluation.sampler.window.schedule: moves by rounds of training, and pictures have none; take fixed",
        ),
        (
            ["model.family=sd", "objective={name: sft}", "model.max_sequence_length=4"],
            "model.max_sequence_length: is a setting of family 'sd3' and 'flux', and model.family is 'sd'; leave it out",
        ),
        (
            ["model.guidance=3.5"],
            "model.guidance: is a setting of family 'flux', and model.family is 'sd3'; leave it out",
        ),
        (
            ["model.config=folder"],
            "model.config: is for a single .safetensors file, and model.path is 'zoo://shapes-sd3'",
        ),
        (
            ["model.family=sdxl", "objective={name: sft}", "time={sampling: shifted, shift: model}"],
            "time.shift: 'model' needs a flow model (sd3, flux, volume), and model.family is 'sdxl'",
        ),
        (["optimizer.warmup_steps=10"], "optimizer.warmup_steps: must be < training.steps (10), got 10"),
        (["objective.schedule=one_minus_t_sq", "training.share_time=false"], "training.share_time: must be true"),
        (["samples.every=5"], "samples.every: needs evaluation.prompts"),
        (
            ["evaluation.trained_reward=ocr"],
            "evaluation.trained_reward: 'ocr' is not in evaluation.rewards (jpeg)",
        ),
        (
            ["evaluation.rewards=[{name: scene}, {name: scene, form: graded}]"],
            "evaluation.rewards: each reward may stand there once",
        ),
        (
            ["evaluation.rewards=[{name: scene}]", "evaluation.trained_reward=scene", "evaluation.quality=scene"],
            "evaluation.quality: must look like reward.component",
        ),
        (
            ["evaluation.rewards=[{name: scene}]", "evaluation.trained_reward=scene", "evaluation.quality=ocr.x"],
            "got 'ocr.x'",
        ),
        (["evaluation.quality=jpeg.x"], "evaluation.quality: needs evaluation.trained_reward"),
    ],
)
def test_sections_must_fit_together(overrides, says):
    (problem,) = problems_of(*overrides)
    assert says in problem


@pytest.mark.parametrize(
    ("config", "overrides", "says"),
    [
        (
            "nft",
            ["model.family=sd"],
            "'sd' is none; use objective.name: d3po or flow_grpo, with online.sampler: {name: ddim, eta: 1}",
        ),
        (
            "d3po",
            ["online.preference=human"],
            "online.rewards: is of rewards, and with online.preference: human people judge; leave it out, or override it "
            "by --set 'online.rewards=[]'",
        ),
    ],
)
def test_online_misfits_say_what_to_set(config, overrides, says):
    with pytest.raises(ConfigError) as caught:
        load_config(f"quickstart/{config}.yaml", overrides)
    assert says in str(caught.value)


def test_all_misfits_at_once():
    problems = problems_of(
        "model.family=sd", "optimizer.warmup_steps=99", "samples.every=1", "evaluation.trained_reward=x"
    )
    assert [problem.split(":")[0] for problem in problems] == [
        "objective.name", "optimizer.warmup_steps", "samples.every", "evaluation.trained_reward",
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_every_flow_family_takes_objectives_on_flows(family):
    config = parse_config(settings(model={"family": family, "path": "x", "max_sequence_length": 77}))
    assert (config.objective.name, config.model.family) == ("flow_dpo", family)


@pytest.mark.parametrize(("written", "meant"), [("3", 3.0), ("0.5", 0.5), ("model", "model")])
def test_shift_is_a_number_or_the_models(written, meant):
    config = parse_config(settings(time={"sampling": "shifted", "shift": 1}), [f"time.shift={written}"])
    assert config.time.shift == meant
    assert parse_config(config.model_dump(mode="json")) == config


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = settings(
        folder="~/runs",
        model={"family": "sd3", "path": "~/model"},
        data={"path": "~/pairs", "cache": "~/cache"},
        evaluation={"prompts": "~/held_out.txt"},
    )
    config = parse_config(given, ["data.cache=~/elsewhere"])
    seen = (config.folder, config.model.path, config.data.path, config.data.cache, config.evaluation.prompts)
    assert seen == tuple(f"{tmp_path}/{name}" for name in ("runs", "model", "pairs", "elsewhere", "held_out.txt"))
    assert parse_config(settings()).model.path == "zoo://shapes-sd3"
    assert parse_config(settings(model={"family": "sd3", "path": "nobody/a~b"})).model.path == "nobody/a~b"


def test_groups_per_step_counts_processes_and_accumulation():
    config = parse_config(settings(training={"steps": 1, "groups": 3, "accumulation": 5, "processes": 7}))
    assert config.groups_per_step == 105
