"""`diffalign rewards bench`, and `train` and `check` of a config with `task: reward`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from diffalign.config.yaml_values import write_yaml
from diffalign.exceptions import ConfigError, DataError
from tests.cli.conftest import run_process
from tests.data.pictures import groups_folder, pairs_folder, write_rows
from tests.rewards.sounds import note
from tests.training.reward_runs import colour_pairs, reward_settings


@pytest.fixture
def config(tmp_path):
    colour_pairs(tmp_path / "pairs", 12)
    (tmp_path / "x.yaml").write_text(write_yaml(reward_settings(tmp_path, training={"steps": 3})))
    return tmp_path / "x.yaml"


def told_by_run(run: str) -> int:
    return json.loads((Path(run) / "held_out.json").read_text())["overall"]["comparisons"]


def test_train_then_bench(call, config, tmp_path):
    done = call("train", "--config", config)
    assert done.exit_code == 0, done.exception
    assert "held-out prompts" in done.stdout and "overall" in done.stdout
    run = done.stdout.strip().splitlines()[-1]
    source, plot = tmp_path / "pairs", tmp_path / "plot.png"
    told = call("rewards", "bench", "-r", f"learned:path={run}", "-r", "jpeg", "-i", source, "--plot", plot, "--json")
    assert told.exit_code == 0, told.exception
    found = json.loads(told.stdout)["rewards"]
    assert [each["name"] for each in found] == [f"learned:path={run}", "jpeg"]
    assert all(each["comparisons"] == 12 and each["prompts"] == 12 for each in found)
    assert plot.is_file()
    apart = call("rewards", "bench", "-r", "jpeg", "-i", source, "--held-out-of", run, "--json")
    assert json.loads(apart.stdout)["rewards"][0]["comparisons"] == told_by_run(run)
    assert "is not a run folder" in str(
        call("rewards", "bench", "-r", "jpeg", "-i", source, "--held-out-of", tmp_path).exception
    )
    for command in ("eval", "report"):
        refused = call(command, run).exception
        assert isinstance(refused, ConfigError | DataError) and "stands in its run's held_out.json" in str(refused)
    assert not (Path(run) / "report.html").exists()
    table = call("rewards", "bench", "-r", "jpeg", "-i", source)
    assert "95 %" in table.stdout and "12" in table.stdout


def test_resume(call, config):
    run = call("train", "--config", config).stdout.strip().splitlines()[-1]
    again = call("train", "--resume", run)
    assert again.exit_code == 0 and again.stdout.strip().splitlines()[-1] == run
    refused = call("train", "--resume", run, "--set", "training.steps=9")
    assert isinstance(refused.exception, ConfigError) and "goes on with its own config" in str(refused.exception)


def test_check_says_what_it_will_do(call, config):
    told = call("check", "--config", config).stdout
    assert "tiny: valid. A reward, small, by bradley_terry; heads: overall" in told
    assert "4 records of pairs" in told and "held out: 25 % of the prompts" in told
    facts = json.loads(call("check", "--config", config, "--json").stdout)
    assert facts["task"] == "reward" and facts["records_in_all"] == 12
    refused = call("check", "--config", config, "--memory")
    assert "--memory: is for runs that align a model" in str(refused.exception)


def test_groups_with_a_margin(call, tmp_path):
    source = groups_folder(tmp_path / "groups", [[0.9, 0.8, 0.1], [0.5, 0.4, None]])
    told = call("rewards", "bench", "-r", "jpeg", "-i", source, "-k", "groups", "--margin", "0.3", "--json")
    (found,) = json.loads(told.stdout)["rewards"]
    assert (found["comparisons"], found["ties"]) == (4, 2)


def test_sounds_and_references_are_read_as_score_reads_them(call, tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for pitch in (69, 76):
        soundfile.write(sounds / f"{pitch}.wav", note(pitch, 1.0), 22050)
    pair = {"prompt": "a note", "chosen": "69.wav", "rejected": "76.wav", "notes": [69]}
    write_rows(sounds / "metadata.jsonl", [pair])
    told = call("rewards", "bench", "-r", "notes", "-i", sounds, "--json")
    assert told.exit_code == 0, told.exception
    (found,) = json.loads(told.stdout)["rewards"]
    assert (found["comparisons"], found["unscored"], found["accuracy"]["value"]) == (1, {}, 1.0)
    pictures = pairs_folder(tmp_path / "pictures", 2, reference="0a.png")
    told = call("rewards", "bench", "-r", "psnr", "-i", pictures, "--json")
    (found,) = json.loads(told.stdout)["rewards"]
    assert (found["comparisons"], found["unscored"], found["accuracy"]["value"]) == (2, {}, 1.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kind", "pair"], "--kind: must be one of pairs, groups, got 'pair'; did you mean pairs?"),
        (["--temperature", "0"], "--temperature: must be > 0, got 0.0"),
        (["--margin", "0.1"], "--margin: is of --kind groups"),
        (["--plot", "x.pdf"], "--plot: must end in .png or .svg"),
        (["--reward", "jpeg"], "--reward: the same stands twice in jpeg, jpeg"),
        (["--dimension", "VQ"], "column 'preferences' says nothing of VQ"),
        (["--reward", "learned:path=nowhere"], "learned.path: nowhere has no config.json"),
    ],
)
def test_wrong_options(more, message, call, tmp_path):
    source = pairs_folder(tmp_path / "pairs", 1)
    done = call("rewards", "bench", "--reward", "jpeg", "--input", source, *more)
    assert message in str(done.exception)


def test_wrong_sources(call, tmp_path):
    for source, message in {
        tmp_path / "none": "no such file or folder",
        "zoo://shapes-sd/held_out": "is no set of comparisons; take zoo://shapes-sd/preferences",
        tmp_path / "x.safetensors": "which one is not known",
    }.items():
        done = call("rewards", "bench", "--reward", "jpeg", "--input", source)
        assert message in str(done.exception)


def test_as_a_process(tmp_path):
    pairs_folder(tmp_path / "pairs", 2)
    done = run_process("rewards", "bench", "--reward", "jpeg", "--input", "pairs", cwd=tmp_path)
    assert done.returncode == 0 and "interval" in done.stdout, done.stderr
    wrong = run_process("rewards", "bench", "--reward", "jpg", "--input", "pairs", cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: reward: must be one of")
