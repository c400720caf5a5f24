"""`diffalign generate --models`, `score` and `pair`: from prompts to records that training reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffalign.data import read_records
from diffalign.exceptions import ConfigError, DataError
from tests.data.judged_folder import by_reward
from tests.data.pictures import pairs_folder

ZOO = ("--model", "zoo://shapes-sd", "--steps", "2")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def refusal(call: Any, *arguments: object) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, ConfigError | DataError), result.exception
    return str(result.exception)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    from typer.testing import CliRunner

    from diffalign.cli.app import app

    home = tmp_path_factory.mktemp("drawn")
    (home / "prompts.txt").write_text("a red circle\na blue square\n")
    models = "zoo://shapes-sd,sd3:zoo://shapes-sd3"
    arguments = [
        "generate",
        "-p",
        str(home / "prompts.txt"),
        "-o",
        str(home),
        "--models",
        models,
        "-n",
        "2",
        "--steps",
        "2",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip() == str(home)
    assert result.stderr.splitlines()[-1] == "pictures: 8 drawn, 0 there already"
    return home


def test_several_models(drawn):
    found = rows(drawn / "metadata.jsonl")
    assert [row["file_name"] for row in found[:3]] == [
        "000000-shapes-sd.png", "000000-shapes-sd3.png", "000001-shapes-sd.png",
    ]  # fmt: skip
    assert {row["source"] for row in found} == {"zoo://shapes-sd", "zoo://shapes-sd3"}
    assert found[0]["seed"] == found[1]["seed"] == 0


def test_one_item_of_models_is_as_model(call, tmp_path):
    call("generate", "-p", "a red circle", "-o", tmp_path / "a", *ZOO)
    call("generate", "-p", "a red circle", "-o", tmp_path / "b", "--models", "zoo://shapes-sd", "--steps", "2")
    assert (tmp_path / "a" / "metadata.jsonl").read_bytes() == (tmp_path / "b" / "metadata.jsonl").read_bytes()


def test_runs_and_adapters_among_models(call, run_folder, tmp_path):
    adapted = f"zoo://shapes-sd+{run_folder / 'adapter'}"
    result = call(
        "generate", "-p", "a red circle", "-o", tmp_path, "--models", f"{run_folder},{adapted}", "--run", run_folder
    )
    assert result.exit_code == 0, result.exception
    found = rows(tmp_path / "metadata.jsonl")
    name = run_folder.name
    assert {row["id"] for row in found} == {f"000000-{name}", f"000000-{name}-2", "000000-shapes-sd-adapter"}
    assert len({row["adapter"] for row in found}) == 1


def test_sources_tell_adapters_and_runs_of_one_name_apart(call, run_folder, tmp_path):
    for place in ("x/A", "x/B", "y/B"):
        shutil.copytree(run_folder, tmp_path / place, ignore=shutil.ignore_patterns("checkpoints", "samples"))
    runs = [tmp_path / place for place in ("x/A", "x/B", "y/B")]
    items = [*(f"zoo://shapes-sd+{run}/adapter" for run in runs), *runs]
    result = call("generate", "-p", "a red circle", "-o", tmp_path / "out", "--models", ",".join(map(str, items)))
    assert result.exit_code == 0, result.exception
    assert {row["id"][7:]: row["source"] for row in rows(tmp_path / "out" / "metadata.jsonl")} == {
        "shapes-sd-A-adapter": "zoo://shapes-sd+A/adapter",
        "shapes-sd-x-B-adapter": "zoo://shapes-sd+x/B/adapter",
        "shapes-sd-y-B-adapter": "zoo://shapes-sd+y/B/adapter",
        "A": "A",
        "x-B": "x/B",
        "y-B": "y/B",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--models", "zoo://shapes-sd,zoo://nope"), "zoo://nope: the zoo has"),
        (("--models", "zoo://shapes-sd,some/model"), "in --models also as FAMILY:some/model"),
        (("--models", "zoo://shapes-sd,"), "names no model"),
        (("--models", "zoo://shapes-sd+/absent"), "--adapter: no such file or folder: /absent"),
        (("--models", "zoo://shapes-sd", "--adapter", "x"), "in --models write MODEL+ADAPTER"),
        (("--models", "zoo://shapes-sd", "--model", "zoo://shapes-sd"), "give either --run"),
        (
            ("--models", "zoo://shapes-sd3,zoo://shapes-sd", "--eta", "1"),
            "samplers ddim and flow_sde, and this is flow_euler",
        ),
        (
            ("--models", "zoo://shapes-sd3,zoo://shapes-sd", "--eta", "1"),
            "(of several models this is zoo://shapes-sd3)",
        ),
        (("--model", "zoo://shapes-sd", "--best-of", "2"), "give --best-of and --reward together"),
        (("--model", "zoo://shapes-sd", "--reward", "jpeg"), "give --best-of and --reward together"),
        (("--model", "zoo://shapes-sd", "--best-of", "2", "--reward", "jpg"), "did you mean 'jpeg'?"),
    ],
)
def test_models_that_cannot_be_had_leave_nothing(call, tmp_path, arguments, says):
    assert says in refusal(call, "generate", "-p", "a red circle", "-o", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_best_of(call, tmp_path):
    for out, best in (("four", ()), ("best", ("--best-of", 4, "--reward", "jpeg"))):
        count = 1 if best else 4
        assert call("generate", "-p", "a red circle", "-o", tmp_path / out, *ZOO, "-n", count, *best).exit_code == 0
    call("score", "-i", tmp_path / "four", "-o", tmp_path / "four.jsonl", "-r", "jpeg")
    best_one = max(rows(tmp_path / "four.jsonl"), key=lambda row: row["jpeg"])
    assert (tmp_path / "best" / "000000.png").read_bytes() == (tmp_path / best_one["file_name"]).read_bytes()
    assert rows(tmp_path / "best" / "metadata.jsonl")[0]["best_of"] == 4


def test_scores_to_the_terminal_and_as_json(call, drawn, tmp_path):
    out = tmp_path / "s.jsonl"
    result = call("score", "-i", drawn, "-o", out, "-r", "scene:form=graded", "-r", "jpeg", "--components")
    assert result.exit_code == 0, result.exception
    assert "jpeg" in result.stdout and "unscored" in result.stdout
    assert result.stdout.strip().splitlines()[-1].endswith("s.jsonl")
    assert result.stderr.splitlines()[-1] == "pictures: 8 looked at, 0 known already"
    again = call("score", "-i", drawn, "-o", out, "-r", "scene:form=graded", "-r", "jpeg", "--components", "--json")
    told = json.loads(again.stdout)
    assert told["file"] == str(out) and told["rewards"]["scene"]["scored"] == 8
    assert again.stderr.splitlines()[-1] == "pictures: 0 looked at, 8 known already"
    assert "scene.objects" in rows(out)[0]


def test_one_reward_with_two_settings(call, drawn, tmp_path):
    two = ("-r", "jpeg:quality=95", "-r", "jpeg:quality=30")
    assert call("score", "-i", drawn, "-o", tmp_path / "s.jsonl", *two).exit_code == 0
    row = rows(tmp_path / "s.jsonl")[0]
    assert row["jpeg:quality=95"] < row["jpeg:quality=30"]
    kept = call("pair", "-i", tmp_path / "s.jsonl", "-o", tmp_path / "p.jsonl", "-r", "jpeg:quality=30", "--json")
    assert json.loads(kept.stdout)["kept"] == 2
    assert "the same stands twice" in refusal(call, "score", "-i", drawn, "-o", tmp_path / "t.jsonl", *two, *two)


def test_pairs_that_training_reads(call, drawn, tmp_path):
    call("score", "-i", drawn, "-o", tmp_path / "s.jsonl", "-r", "jpeg")
    result = call("pair", "-i", tmp_path / "s.jsonl", "-o", tmp_path / "pairs", "--smooth", "-1.4,-0.8")
    assert result.exit_code == 0, result.exception
    assert "pairs written" in result.stdout
    records = list(read_records(tmp_path / "pairs"))
    assert len(records) == 2
    assert all(path.resolve().parent == drawn for record in records for path in record.items)
    assert all(0.5 < record.preference < 1 for record in records)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--kind", "pair"),
            "--kind: must be one of pairs, groups, labelled, experts, got 'pair'; did you mean pairs?",
        ),
        (("--aggregate", "mean"), "--aggregate: must be one of sum, votes, pareto"),
        (("--smooth", "1"), "--smooth: must be LOW,HIGH, as 0,1, got '1'"),
        (("--reward", "s"), "no column 's'"),
    ],
)
def test_pairs_that_cannot_be_had(call, tmp_path, arguments, says):
    source = by_reward(tmp_path, [0.0, 1.0])
    assert says in refusal(call, "pair", "-i", source, "-o", tmp_path / "p.jsonl", *arguments)
    assert not (tmp_path / "p.jsonl").exists()


def test_input_without_scores_says_what_to_do(call, tmp_path):
    folder = pairs_folder(tmp_path / "data", 1)
    assert "it has no scores yet: diffalign score" in refusal(call, "pair", "-i", folder, "-o", tmp_path / "p.jsonl")


def test_of_several_processes_the_first_makes_records(call, tmp_path, monkeypatch):
    source, out = by_reward(tmp_path, [0.0, 1.0]), tmp_path / "p.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", False), ("0", True), ("1", True)):
        monkeypatch.setenv("RANK", rank)
        result = call("pair", "-i", source, "-o", out)
        assert (result.exit_code, out.exists(), bool(result.stdout)) == (0, there, rank == "0")


def test_output_in_a_folder_that_cannot_be_made(call, tmp_path):
    source = by_reward(tmp_path, [0.0, 1.0])
    for arguments in (("pair",), ("score", "-r", "jpeg")):
        out = tmp_path / "p0.png" / "out.jsonl"
        assert "--out: cannot make" in refusal(call, *arguments, "-i", source, "-o", out)


def test_what_the_environment_says_of_processes(call, tmp_path, monkeypatch):
    source = by_reward(tmp_path, [0.0, 1.0, 2.0])
    out = tmp_path / "s.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        result = call("score", "-i", source, "-o", out, "-r", "jpeg", "--batch", 1)
        assert (result.exit_code, out.exists(), bool(result.stdout)) == (0, there, there)
    monkeypatch.setenv("RANK", "2")
    assert "RANK=2 and WORLD_SIZE=2: must be" in refusal(call, "score", "-i", source, "-o", out, "-r", "jpeg")


def test_reward_that_cannot_be_had(call, tmp_path):
    by_reward(tmp_path, [0.0, 1.0])
    arguments = ("score", "-i", tmp_path / "scores.jsonl", "-o", tmp_path / "s.jsonl", "-r")
    assert refusal(call, *arguments, "scene:frm=graded") == "scene.frm: unknown option; did you mean 'form'?"
    assert "did you mean 'scene'?" in refusal(call, *arguments, "scnee")
    assert "--out: vendi say one number of all together" in refusal(call, *arguments, "vendi")
    assert not (tmp_path / "s.jsonl").exists()


def test_input_that_is_not_there(call, tmp_path):
    for arguments in (("score", "-r", "jpeg"), ("pair",)):
        said = refusal(call, *arguments, "-i", tmp_path / "nowhere", "-o", tmp_path / "out.jsonl")
        assert said.startswith(f"--input: {tmp_path / 'nowhere'}: no such file or folder")


def test_labels_of_one_kind_are_warned_of(call, tmp_path):
    source = by_reward(tmp_path, [0.6, 1.0])
    arguments = ("pair", "-i", source, "-o", tmp_path / "p.jsonl", "--kind", "labelled", "--overwrite", "--good", 0.8)
    assert call(*arguments).stderr == ""
    result = call(*arguments, "--bad", 0.3)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: none of the pictures is bad; ")
