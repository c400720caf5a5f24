"""Every command: what it prints where, what it writes, and how it ends."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from diffalign import cli
from diffalign.cli import installed
from diffalign.exceptions import (
    CheckpointError,
    ConfigError,
    DataError,
    DiffalignError,
    DivergenceError,
    HealthStop,
    MissingExtraError,
    RunInterrupted,
    SaveError,
)
from tests.cli.conftest import CHECKOUT, run_process

# ---------------------------------------------------------------- train, eval, report


def test_train_prints_the_folder_last_and_talks_on_stderr(trained, run_folder):
    lines = trained.stdout.strip().splitlines()
    assert lines[-2] == f"report: {run_folder / 'report.html'}"
    assert any("scene" in line for line in lines)
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "adapter",
        "report.html",
        "evaluation/summary.json",
        "samples/step-2.png",
    ):
        assert (run_folder / name).exists(), name
    assert "step 2/2" in trained.stderr
    assert "pictures drawn: 4/4" in trained.stderr
    assert "step 2/2" not in trained.stdout
    for noise in ("Loading", "it/s", "Warning", "torchvision"):
        assert noise not in trained.stderr


def test_resume_of_the_finished_run(call, run_folder, caplog):
    before = (run_folder / "metrics.jsonl").read_bytes()
    with caplog.at_level(logging.INFO):
        result = call("train", "--resume", run_folder)
    assert result.exit_code == 0, result.exception
    assert "this run is finished (2 steps); nothing left to train" in caplog.text
    assert "compared already" in caplog.text and "base against aligned" not in result.stdout
    assert result.stdout.strip().splitlines()[-1] == str(run_folder)
    assert (run_folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--config", "x.yaml"), "leave out --config, or start a new run"),
        (("--set", "seed=1"), "--set seed=1: a run goes on with its own config; of that only training.processes, "),
        (("--set", "training.groups=3"), "training.processes: a step of this run takes"),
    ],
)
def test_resume_takes_no_other_settings(call, run_folder, extra, message):
    result = call("train", "--resume", run_folder, *extra)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_eval_as_json_prints_the_summary_alone(call, run_folder):
    result = call("eval", run_folder, "--json")
    assert result.exit_code == 0, result.exception
    summary = json.loads(result.stdout)
    assert summary == json.loads((run_folder / "evaluation" / "summary.json").read_text("utf-8"))
    assert summary["prompts"] == 2
    assert summary["corrected"] is not None


def test_eval_prints_a_table_and_the_report(call, run_folder):
    result = call("eval", run_folder)
    assert result.exit_code == 0, result.exception
    assert "base against aligned" in result.stdout
    assert result.stdout.strip().splitlines()[-1] == str(run_folder)


def test_report_is_rebuilt(call, run_folder):
    (run_folder / "report.html").unlink()
    result = call("report", run_folder)
    assert result.exit_code == 0, result.exception
    assert "<html" in (run_folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["eval", "report"])
def test_not_a_run_folder(call, tmp_path, command):
    result = call(command, tmp_path)
    assert isinstance(result.exception, ConfigError | DataError)
    assert "not a run folder" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_eval_without_prompts(call, run_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    text = (folder / "config.yaml").read_text("utf-8").replace("prompts: zoo://shapes-sd/held_out", "prompts: null")
    (folder / "config.yaml").write_text(text.replace("every: 2", "every: null"), encoding="utf-8")
    result = call("eval", folder)
    assert isinstance(result.exception, ConfigError)
    assert "evaluation.prompts: names no prompts" in str(result.exception)
    assert (folder / "evaluation" / "summary.json").exists()  # the old one


def test_eval_with_other_prompts_and_seed(call, run_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    (tmp_path / "mine.txt").write_text("a red circle\n")
    settings = ["-s", f"evaluation.prompts={tmp_path / 'mine.txt'}", "-s", "evaluation.seed=7"]
    result = call("eval", folder, "--json", *settings, "-s", "evaluation.members=2")
    assert result.exit_code == 0, result.exception
    summary = json.loads(result.stdout)
    assert (summary["prompts"], summary["pictures"], summary["seed"]) == (1, 2, 7)
    assert "pictures drawn: 4/4" in result.stderr
    assert (folder / "config.yaml").read_bytes() == (run_folder / "config.yaml").read_bytes()  # how it was trained


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.steps=3", "give a setting that starts with evaluation."),
        ("evaluation.cuont=3", "did you mean 'count'"),
        ("evaluation.quality=scene.claen", "did you mean scene.clean"),
    ],
)
def test_eval_refuses_other_settings(call, run_folder, override, says):
    before = (run_folder / "evaluation" / "summary.json").read_bytes()
    result = call("eval", run_folder, "-s", override)
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)
    assert (run_folder / "evaluation" / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: must be > 0, got -1"),
        ("objective.betta=3", "objective.betta: unknown key; did you mean 'beta'?"),
        ("data.path=absent.jsonl", "absent.jsonl: cannot be read"),
        ("evaluation.prompts=absent.txt", "absent.txt: cannot be read"),
        ("evaluation.quality=scene.claen", "did you mean scene.clean"),
    ],
)
def test_bad_start_writes_nothing(call, config_file, tmp_path, override, says):
    result = call("train", "-c", config_file, "-s", f"folder={tmp_path / 'runs'}", "-s", override)
    assert isinstance(result.exception, ConfigError | DataError)
    assert says in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["check", "train"])
def test_config_is_needed(call, command):
    result = call(command)
    assert isinstance(result.exception, ConfigError)
    assert "--config is missing; `diffalign list configs` shows" in str(result.exception)


# ---------------------------------------------------------------- doctor


def test_doctor(call):
    result = call("doctor", "--json")
    findings = json.loads(result.stdout)
    topics = {finding["topic"] for finding in findings}
    assert {"python", "torch", "GPU", "disk", "zoo://shapes-sd", "zoo://shapes-sd3", "extras"} <= topics
    assert {finding["state"] for finding in findings} <= {"fine", "note", "wrong"}
    assert result.exit_code == any(finding["state"] == "wrong" for finding in findings)


def test_doctor_names_what_is_wrong_and_goes_on(call, monkeypatch):
    from diffalign.cli import doctor

    def broken() -> list[doctor.Finding]:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "_hardware", broken)
    monkeypatch.setattr(doctor, "_zoo", lambda: [])
    result = call("doctor")
    assert result.exit_code == 1
    assert "wrong broken: cannot be examined (RuntimeError: no such thing)" in result.stdout
    assert "extras: installed:" in result.stdout


def test_doctor_shows_extras_and_rewards_by_name(call, monkeypatch, tmp_path):
    from diffalign.cli import doctor

    for look in ("_libraries", "_precision", "_zoo", "_hardware"):
        monkeypatch.setattr(doctor, look, lambda: [])
    monkeypatch.setattr(installed, "version", lambda name: "0.1")
    monkeypatch.setenv("DIFFALIGN_WHEELS", str(tmp_path))
    told = call("doctor").stdout
    assert "ocr (lacks onnxruntime>=1.18, rapidocr>=3.10)" in told
    assert "pip install -e '.[audio]' in the checkout adds one" in told
    assert "rewards: run here: scene, jpeg, emoji" in told and "learned (path), http (url)" in told
    assert "rewards: not here: brisque: diffalign rewards fetch brisque==0.2.0\n" in told
    assert "wheels: fetched: none; not fetched: " in told and "diffalign rewards fetch --all gets them" in told


def test_extras_are_those_of_pyproject():
    told = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert installed.extras().keys() == told.keys() - {"all", "dev"}


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("a: b\nc: d"), 2, "error: a: b\nc: d\n"),
        (DataError("x"), 2, "error: x\n"),
        (MissingExtraError("x"), 2, "error: x\n"),
        (CheckpointError("x"), 2, "error: x\n"),
        (SaveError("x"), 1, "error: x\n"),
        (DivergenceError("x"), 1, "error: x\n"),
        (HealthStop("x"), 1, "error: x\n"),
        (DiffalignError("x"), 1, "error: x\n"),
        (MemoryError(), 1, "error: out of memory (); take fewer training.groups"),
        (RuntimeError("CUDA out of memory. Tried\nx"), 1, "error: out of memory (CUDA out of memory. Tried); take"),
        (RuntimeError("x can't allocate memory"), 1, "error: out of memory (x can't allocate memory); take"),
        (OSError(28, "No space left on device", "a"), 1, "error: cannot write: a: No space left on device; free"),
        (OSError(27, "File too large"), 1, "error: cannot write: File too large; free"),
        (OSError(36, "File name too long", "a"), 2, "error: a: File name too long; give another path\n"),
        (RunInterrupted("saved", 15), 143, "saved\n"),
        (RunInterrupted("saved", 2), 130, "saved\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(monkeypatch, capsys, error, code, says):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("diffalign.cli.show.describe_config", fail)
    monkeypatch.setattr(sys, "argv", ["diffalign", "check", "--config", "quickstart/diffusion_dpo.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.replace("Aborted.\n", "").startswith(says)
    assert captured.err.count("\n") == says.count("\n") or captured.err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(2, "No such file"), TypeError()])
def test_faults_of_ours_are_shown_whole(monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("diffalign.cli.show.describe_config", fail)
    monkeypatch.setattr(sys, "argv", ["diffalign", "check", "--config", "quickstart/diffusion_dpo.yaml"])
    with pytest.raises(type(error)):
        cli.main()


@pytest.mark.parametrize(
    ("spoken_for", "rank", "says", "waits"),
    [
        (None, "0", "error: x\n", 0),
        (None, "1", "error: x\n", 1),  # the first gets time to say it, and the launcher to end this one
        (False, "1", "error: x\n", 0),
        (True, "0", "", 0),
        (True, "1", "", 0),
    ],
)
def test_one_of_several_processes_speaks(monkeypatch, capsys, spoken_for, rank, says, waits):
    error, waited = ConfigError("x"), []
    error.spoken_for = spoken_for

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("diffalign.cli.show.describe_config", fail)
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(sys, "argv", ["diffalign", "check", "--config", "quickstart/diffusion_dpo.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == says
    assert len(waited) == waits


def test_real_errors_have_no_traceback_and_exit_2(tmp_path):
    (tmp_path / "bad.yaml").write_text("optimiser: {}\nseed: x\n")
    done = run_process("train", "--config", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "problems in bad.yaml\n" in done.stderr
    assert "optimiser: unknown key; did you mean 'optimizer'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_unknown_list_exits_2_with_a_hint(tmp_path):
    done = run_process("list", "objectivs", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: list: must be one of objectives, rewards, families, samplers, configs, zoo, got 'objectivs'; "
        "did you mean 'objectives'?\n"
    )


def test_unknown_option_and_command_exit_2(call):
    assert call("train", "--confg", "x").exit_code == 2
    assert call("trian").exit_code == 2


def test_no_arguments_print_help(call):
    result = call()
    assert "train" in result.output
    assert "generate" in result.output


def test_help_of_every_command(call):
    for command in ("train", "eval", "report", "check", "generate", "doctor", "list"):
        result = call(command, "--help")
        assert result.exit_code == 0
        assert "--help" in result.stdout


def test_run_folder_is_whole_after_all_that(run_folder: Path):
    assert not list(run_folder.glob(".*"))
