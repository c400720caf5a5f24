"""`diffalign train` that an alarm, a bad number or a signal ends: its report is there all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from diffalign.config.yaml_values import write_yaml
from diffalign.exceptions import DataError, DivergenceError, HealthStop, RunInterrupted
from diffalign.training.offline import OfflineTrainer, StepResult
from tests.training.tiny import tiny_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stopped")
    (home / "x.yaml").write_text(write_yaml(tiny_settings(home, training={"groups": 1})), encoding="utf-8")
    return home / "x.yaml"


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def arrange(step: int) -> None:
        original = OfflineTrainer.train_step

        def train_step(self: OfflineTrainer) -> StepResult:
            result = original(self)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return result

        monkeypatch.setattr(OfflineTrainer, "train_step", train_step)

    return arrange


def page(runs: Path) -> str:
    (folder,) = runs.glob("*")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_bad_number_is_an_alarm_of_the_report(call, settings, tmp_path):
    runs = tmp_path / "runs"
    result = call("train", "-c", settings, "-s", f"folder={runs}", "-s", "optimizer.learning_rate=1e30")
    assert isinstance(result.exception, DivergenceError)
    assert result.stdout == ""
    text = page(runs)
    assert "no alarm was raised" not in text
    assert "not_finite" in text
    assert "records of this step: group-" in text


def test_alarm_that_stops(call, settings, tmp_path):
    runs = tmp_path / "runs"
    health = ("health.window=2", "health.saturation=stop", "health.saturation_limit=5.0")
    result = call("train", "-c", settings, "-s", f"folder={runs}", *(part for each in health for part in ("-s", each)))
    assert isinstance(result.exception, HealthStop)
    assert "saturation" in page(runs)


def test_signal_and_resume(call, settings, tmp_path, signalled):
    runs = tmp_path / "runs"
    signalled(1)
    result = call("train", "-c", settings, "-s", f"folder={runs}")
    assert isinstance(result.exception, RunInterrupted)
    assert "trained for 1 of 4 steps" in page(runs)
    (folder,) = runs.glob("*")
    signalled(3)
    result = call("train", "--resume", folder)
    assert isinstance(result.exception, RunInterrupted)
    assert "trained for 3 of 4 steps" in page(runs)


def test_report_that_fails_does_not_hide_why_it_ended(call, settings, tmp_path, signalled, monkeypatch, caplog):
    def fail(run: Path) -> Path:
        raise DataError("no space")

    monkeypatch.setattr("diffalign.reports.write_report", fail)
    signalled(1)
    result = call("train", "-c", settings, "-s", f"folder={tmp_path / 'runs'}")
    assert isinstance(result.exception, RunInterrupted)
    assert "no report could be made" in caplog.text
    assert "no space" in caplog.text
