"""What a run says while it goes: a bar on a terminal, lines in a log file, and the time that is left."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from diffalign.training import run_log, train
from diffalign.training.offline import OfflineTrainer, StepResult
from diffalign.training.run_log import ProgressReport
from tests.training.tiny import tiny


def instant(step: Callable[[OfflineTrainer], StepResult]) -> Callable[[OfflineTrainer], StepResult]:
    """The first step is taken; the others only count."""
    first: list[StepResult] = []

    def train_step(self: OfflineTrainer) -> StepResult:
        if not first:
            first.append(step(self))
        else:
            self.step += 1
        return StepResult(dict(first[0].metrics), first[0].record_ids)

    return train_step


def test_progress_says_what_matters(home, capsys, monkeypatch):
    monkeypatch.setattr(OfflineTrainer, "train_step", instant(OfflineTrainer.train_step))
    train(tiny(home, training={"steps": 40, "groups": 1}))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 1/40 ")
    assert lines[-1].startswith("step 40/40 ")
    assert 15 <= len(lines) <= 25
    number = r"-?\d+\.\d+"
    form = (
        rf"step \d+/40 +loss {number} +margin [+-]\d+\.\d+ +acc {number} +win err {number} +lose err {number} "
        rf"+s/step {number} +ETA \d+s"
    )
    assert all(re.fullmatch(form, line) for line in lines), lines[0]


@pytest.mark.parametrize("width", [80, 120])
def test_bar_is_one_line_and_its_figures_another(width):
    console = Console(record=True, width=width, force_terminal=True, file=io.StringIO())
    report = ProgressReport(100_000, 0, enabled=True, console=console)
    figures = {
        "loss": 12.34567, "margin": -1234.5678, "pair_accuracy": 0.5, "winner_error": 1.23456, "loser_error": 1.34567,
        "seconds_per_step": 12.345,
    }  # fmt: skip
    with report() as bar:
        bar.show(99_998, figures)
    last = console.export_text().rstrip().splitlines()[-2:]
    assert last[0].startswith("step ")
    assert re.search(r"99998/100000 +s/step 12\.35 +ETA +\S+$", last[0])
    assert last[1].strip() == "loss 12.3457  margin -1234.568  acc 0.50  win err 1.2346  lose err 1.3457"


def eta_of(report: ProgressReport, monkeypatch: pytest.MonkeyPatch, moments: dict[int, float], metrics: dict) -> None:
    with report() as bar:
        for step, moment in moments.items():
            monkeypatch.setattr(run_log.time, "monotonic", lambda moment=moment: moment)
            bar.show(step, metrics)


@pytest.mark.parametrize(("terminal", "says"), [(False, "ETA 1600s"), (True, "ETA 0:26:40")])
def test_time_left_is_of_many_steps(monkeypatch, terminal, says):
    """Two seconds a step with what is between them; the last step alone took a hundred."""
    console = Console(record=True, width=120, force_terminal=terminal, file=io.StringIO())
    monkeypatch.setattr(run_log.time, "monotonic", lambda: 1000.0)
    report = ProgressReport(1000, 100, enabled=True, console=console)
    eta_of(report, monkeypatch, {150: 1098.0, 200: 1200.0}, {"seconds_per_step": 100.0})
    assert console.export_text().rstrip().splitlines()[-1].endswith(says)


def test_time_left_forgets_the_first_steps(monkeypatch):
    console = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(run_log.time, "monotonic", lambda: 0.0)
    report = ProgressReport(200, 0, enabled=True, console=console)
    slow_start = {step: 10.0 * min(step, 50) + max(step - 50, 0) for step in range(1, 101)}
    eta_of(report, monkeypatch, slow_start, {"seconds_per_step": 1.0})
    lines = console.export_text().splitlines()
    assert lines[0].endswith("ETA 1990s")
    assert lines[-1].startswith("step 100/200 ")
    assert lines[-1].endswith("ETA 100s")


def test_progress_may_be_silent(home, capsys):
    train(tiny(home, training={"steps": 1}), progress=False)
    assert "step 1" not in capsys.readouterr().err
