"""`diffalign list` and `check`: what they print, in a narrow and a wide terminal, and as JSON."""

from __future__ import annotations

import json
import re

import pytest

from diffalign.cli.reward_facts import reward_facts
from diffalign.config.objectives import OBJECTIVE_PARAMS
from diffalign.config.rewards import REWARD_PARAMS, SET_REWARD_PARAMS
from diffalign.exceptions import ConfigError
from diffalign.rewards import REWARDS, SET_REWARDS
from tests.cli.conftest import CHECKOUT, run_process

NAMES = [params.model_fields["name"].default for params in OBJECTIVE_PARAMS]


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("objectives", {"diffusion_dpo", "flow_dpo", "sft"}),
        (
            "rewards",
            {
                "scene",
                "jpeg",
                "emoji",
                "clip",
                "pickscore",
                "hps",
                "aesthetic",
                "ocr",
                "psnr",
                "ssim",
                "vendi",
                "frechet",
            },
        ),
        ("families", {"sd", "sdxl", "sd3", "flux", "volume"}),
        ("samplers", {"ddim", "dpm_solver_pp", "flow_euler", "flow_heun", "flow_sde"}),
        ("configs", {"quickstart/diffusion_dpo.yaml"}),
        ("zoo", {"zoo://shapes-sd", "zoo://shapes-sd3", "zoo://emoji-sd3"}),
    ],
)
def test_list(call, what, names):
    rows = json.loads(call("list", what, "--json").stdout)
    assert names <= {row["name"] for row in rows}
    assert all(str(value).strip() for row in rows for value in row.values())
    table = call("list", what)
    assert table.exit_code == 0
    assert all(name in table.stdout for name in names)


def test_list_is_of_objectives_by_default(call):
    assert call("list").stdout == call("list", "objectives").stdout


def test_list_of_nothing(call, monkeypatch):
    monkeypatch.setattr("diffalign.cli.show.list_zoo", lambda: [])
    assert call("list", "zoo").stdout.strip() == "no zoo here"
    assert json.loads(call("list", "zoo", "--json").stdout) == []


def test_objectives_take_a_line_each_in_80_columns(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = call("list", "objectives").stdout.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    heading, rows = lines[0].split(), [re.split(r" {2,}", line.strip()) for line in lines[1 : 1 + len(NAMES)]]
    assert heading == ["name", "train", "models", "data", "paper"]
    assert [row[0] for row in rows] == NAMES
    seen = {row[0]: row[1:] for row in rows}
    assert seen["diffusion_dpo"] == ["yes", "any", "pairs", "Wallace 2023"]
    assert seen["flow_rwr"] == ["yes", "flow", "groups + rewards", "Liu 2025"]
    assert seen["diffusion_kto"] == ["yes", "any", "labels or pairs", "Li 2024"]
    assert seen["dragon"][2] == "labels or groups"
    assert seen["smpo"][2] == "pairs + preferences"
    assert seen["sft"][2:] == ["pairs or groups", "-"]
    assert seen["crd"] == ["online", "any", "prompts + reward", "arXiv 2603.14128"]
    assert {name for name, row in seen.items() if row[0] == "online"} == {
        params.model_fields["name"].default for params in OBJECTIVE_PARAMS if params.online
    }
    assert "online, with the section" in lines[-2]
    assert "diffalign list objectives NAME" in lines[-1]


def test_objectives_in_full_in_a_wide_terminal(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "320")
    text = call("list", "objectives").stdout
    assert all(params.paper in text and params.data in text for params in OBJECTIVE_PARAMS)


@pytest.mark.parametrize("what", ["objectives", "rewards", "families", "samplers", "configs", "zoo"])
def test_names_are_whole_in_a_narrow_terminal(call, monkeypatch, what):
    names = {row["name"] for row in json.loads(call("list", what, "--json").stdout)}
    monkeypatch.setenv("COLUMNS", "30")
    assert names <= {line.split()[0] for line in call("list", what).stdout.splitlines() if line.strip()}


def test_one_objective_in_full(call):
    lines = call("list", "objectives", "crd").stdout.splitlines()
    assert lines[:2] == ["name: crd", "train: online"]
    assert lines[-2].endswith("Centered Reward Distillation, 2026 (arXiv 2603.14128)")
    assert lines[-1] == "page: docs/methods/crd.md"
    assert call("list", "objectives", "flow_dpo").stdout.splitlines()[-2:] == [
        "page: docs/methods/diffusion_dpo.md",
        "quickstart: quickstart/flow_dpo.yaml",
    ]
    (row,) = json.loads(call("list", "objectives", "crd", "--json").stdout)
    assert row.keys() == {"name", "train", "data", "models", "settings", "paper", "page", "quickstart"}
    assert [f"{key}: {value}" for key, value in row.items() if value is not None] == lines


def test_a_sampler_names_the_page_of_its_settings(call):
    assert call("list", "samplers", "flow_sde").stdout.splitlines()[-1] == "page: docs/samplers.md"
    assert "docs/samplers.md" not in call("list", "samplers").stdout


def test_name_that_is_not_in_the_list(call):
    result = call("list", "rewards", "jpg")
    assert isinstance(result.exception, ConfigError)
    names = ", ".join(params.model_fields["name"].default for params in (*REWARD_PARAMS, *SET_REWARD_PARAMS))
    assert str(result.exception) == f"list rewards: must be one of {names}, got 'jpg'; did you mean 'jpeg'?"


def test_one_reward_in_full(call):
    told = dict(line.split(": ", 1) for line in call("list", "rewards", "psnr").stdout.splitlines()[:-1])
    assert (told["range"], told["unit"], told["needs"]) == ("0 to 100", "dB", "reference")
    assert told["page"] == "docs/rewards/full_reference.md" and (told["medium"], told["judges"]) == (
        "image",
        "instance",
    )
    assert told["settings"] == "channel=y, crop_border=0"
    (row,) = json.loads(call("list", "rewards", "fad", "--json").stdout)
    assert (row["medium"], row["judges"]) == ("audio", "set to set") and row["page"] == "docs/rewards/fad.md"
    assert row["range"] == [None, 0.0] and row["unit"] == "squared features" and row["licence"] and row["source"]
    assert row["settings"]["reference"] == "required" and row["settings"]["smallest"] == 500
    of_set = call("list", "rewards", "vendi").stdout
    assert "range: 1 to inf\n" in of_set and "process and cache" not in of_set


def test_the_list_of_rewards_is_not_wide(call):
    lines = call("list", "rewards").stdout.splitlines()
    assert max(map(len, lines)) < 160 and not any("batch=" in line for line in lines)


@pytest.mark.parametrize("name", [*REWARDS, *SET_REWARDS])
def test_the_page_of_a_reward_is_there(name):
    assert (CHECKOUT / reward_facts(name)["page"]).is_file()


def test_what_all_rewards_of_single_samples_take_is_said_once(call):
    result = call("list", "rewards")
    assert result.stdout.splitlines()[-1].startswith(
        "those of single samples also take process and cache: docs/rewards/"
    )
    assert result.stdout.count("cache") == 1
    assert json.loads(call("list", "rewards", "--json").stdout)[0]["settings"] == {"form": "strict"}


def test_check_prints_the_batch_arithmetic(call):
    result = call(
        "check", "-c", "quickstart/diffusion_dpo.yaml", "-s", "training.groups=3", "-s", "training.accumulation=5"
    )
    assert result.exit_code == 0, result.exception
    assert "3 groups x 2 members x 5 accumulation x 1 process = 15 groups, 30 samples" in result.stdout


def test_check_as_json(call):
    options = (
        "-s",
        "training.groups=3",
        "-s",
        "training.accumulation=5",
        "-s",
        "training.processes=2",
        "-s",
        "training.steps=40",
    )
    facts = json.loads(call("check", "-c", "quickstart/diffusion_dpo.yaml", "--json", *options).stdout)
    assert facts["groups_per_step"] == 30
    assert facts["samples_per_step"] == 60
    assert facts["groups_in_all"] == 1200
    assert facts["objective"] == "diffusion_dpo"


@pytest.mark.parametrize(
    ("settings", "says", "members", "samples"),
    [
        (["objective={name: diffusion_kto}"], "3 groups x 2 members x", 2, 6),
        (["objective={name: sft}"], "3 groups x 2 members x", 2, 6),
        (["objective={name: diffusion_kto}", "data.kind=labelled"], "3 groups x 1 member x", 1, 3),
        (["objective={name: gdro}", "data.kind=groups"], "3 groups x all members of a record x", None, None),
        (["objective={name: gdro}", "data.kind=groups", "data.members=4"], "3 groups x 4 members x", 4, 12),
        (["data.kind=groups", "data.members=2"], "3 groups x 2 members x", 2, 6),
    ],
)
def test_check_counts_the_members_that_the_records_have(call, settings, says, members, samples):
    options = [part for each in ("training.groups=3", *settings) for part in ("-s", each)]
    config = ("check", "-c", "quickstart/diffusion_dpo.yaml", *options)
    facts = json.loads(call(*config, "--json").stdout)
    assert (facts["members"], facts["samples_per_step"], facts["groups_per_step"]) == (members, samples, 3)
    line = call(*config).stdout.splitlines()[1]
    assert says in line
    assert line.endswith("= 3 groups" if samples is None else f"= 3 groups, {samples} samples")


def test_check_is_not_folded_when_piped(tmp_path):
    done = run_process("check", "--config", "quickstart/diffusion_dpo.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == ""


def test_tables_are_as_wide_as_they_need_when_piped(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    lines = run_process("list", "samplers", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 6
    assert lines[3].rstrip().endswith("diffusers' FlowMatchEulerDiscreteScheduler")


def test_configs_say_what_they_are(call):
    rows = {row["name"]: row["what"] for row in json.loads(call("list", "configs", "--json").stdout)}
    assert rows["quickstart/diffusion_dpo.yaml"] == "Diffusion-DPO on the zoo's Stable Diffusion pipeline"
    assert rows["sd15_ddpo.yaml"].startswith("DDPO of Stable Diffusion 1.5 (Black et al. 2023")
    assert all(10 < len(what) < 200 and "  " not in what for what in rows.values()), rows
    assert len(set(rows.values())) == len(rows)


def test_version_is_printed(call):
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", call("--version").stdout)
