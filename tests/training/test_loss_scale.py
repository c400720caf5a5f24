"""fp16's gradient scaler, a real one: what a step that it passes over moves, and when passing over ends the run."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from diffalign.config import RunConfig
from diffalign.exceptions import DivergenceError, RunInterrupted
from diffalign.training import resume, run, train
from diffalign.training.checkpoint import list_checkpoints
from diffalign.training.loss_scale import LossScale
from diffalign.training.offline import OfflineTrainer, StepResult
from diffalign.training.processes import start_accelerator
from tests.training.tiny import adapter, assert_equal, assert_same_run, rows, tiny, trainer_state

HOPELESS = {"init_scale": 3e38, "backoff_factor": 0.999}  # every step overflows
TOO_HIGH = {"init_scale": 3e38, "backoff_factor": 1e-13}  # overflows at first, then fits


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let runs have a gradient scaler with these settings, as accelerate gives them one on a GPU."""

    def arrange(**settings: float) -> None:
        def start(config: RunConfig) -> Accelerator:
            accelerator = start_accelerator(config)
            accelerator.scaler = torch.amp.GradScaler("cpu", **settings)
            accelerator.unscale_gradients = lambda: accelerator.scaler.unscale_(accelerator._optimizers[0].optimizer)
            return accelerator

        monkeypatch.setattr(run, "start_accelerator", start)

    return arrange


def only_folder(config: RunConfig) -> Path:
    (folder,) = Path(config.folder).glob("*")
    return folder


def test_run_that_never_takes_a_step_is_stopped(scaled, home, tmp_path):
    scaled(**HOPELESS)
    config = tiny(home, folder=str(tmp_path / "runs"), training={"steps": 30, "groups": 1, "checkpoint_every": 10})
    with pytest.raises(
        DivergenceError,
        match=r"step 20: the last 20 steps were passed over .* even at loss_scale [\d.e+]+; records of this step: group-",
    ):
        train(config, progress=False)
    folder = only_folder(config)
    assert [row["skipped_steps"] for row in rows(folder)] == list(range(1, 20))
    assert [(row["step"], row["alarm"], row["action"]) for row in rows(folder, "alarm")] == [(20, "not_finite", "stop")]


def test_step_passed_over_moves_the_records_alone(scaled, home, tmp_path):
    scaled(**TOO_HIGH)
    config = tiny(
        home,
        folder=str(tmp_path / "runs"),
        optimizer={"schedule": "linear", "learning_rate": 4e-4},
        training={"steps": 4, "groups": 1, "ema_decay": 0.5, "checkpoint_every": 1, "keep_checkpoints": 9},
    )
    folder = train(config, progress=False).folder
    seen = rows(folder)
    skipped = int(seen[-1]["skipped_steps"])
    assert 1 <= skipped < 4
    assert [row["skipped_steps"] for row in seen] == [min(step, skipped) for step in range(1, 5)]
    scales = [row["loss_scale"] for row in seen]
    assert scales[skipped - 1] == scales[-1] < 3e38
    updates = [max(0, number - skipped) for number in range(4)]  # done before each step
    assert [row["learning_rate"] for row in seen] == pytest.approx([4e-4 * (1 - done / 4) for done in updates])
    assert trainer_state(folder, 4)["schedule"]["last_epoch"] == 4 - skipped
    first = folder / "checkpoints" / "step-1"
    assert not (first / "ema.safetensors").exists()  # no step was taken, so there is nothing to average
    assert (folder / "checkpoints" / "step-4" / "ema.safetensors").exists()
    assert len({row["winner_error"] for row in seen}) == 4  # other records each time


def test_without_an_overflow_nothing_changes(scaled, home):
    """A scale is a power of two: scaling and unscaling cost no bit."""
    config = tiny(home, training={"steps": 2, "groups": 1})
    plain = train(config, progress=False).folder
    scaled(init_scale=2.0**10)
    folder = train(config, progress=False).folder
    assert_equal(adapter(folder), adapter(plain))
    assert [row["skipped_steps"] for row in rows(folder)] == [0, 0]
    assert "loss_scale" not in rows(plain)[0]


@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_equals_uninterrupted(scaled, home, tmp_path, monkeypatch, stop_at):
    scaled(**TOO_HIGH)
    training = {"steps": 5, "groups": 1, "ema_decay": 0.5}
    config = tiny(home, folder=str(tmp_path / "runs"), training=training)
    whole = train(tiny(home, training=training), progress=False).folder
    original = OfflineTrainer.train_step

    def train_step(self: OfflineTrainer) -> StepResult:
        result = original(self)
        if self.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(OfflineTrainer, "train_step", train_step)
        with pytest.raises(RunInterrupted):
            train(config, progress=False)
    folder = only_folder(config)
    assert [path.name for path in list_checkpoints(folder)] == [f"step-{stop_at}"]
    resume(folder, progress=False)
    assert_same_run(folder, whole, 5)


def test_short_run_says_that_steps_were_passed_over(scaled, home, caplog):
    scaled(**HOPELESS)
    with caplog.at_level(logging.INFO):
        train(tiny(home, training={"steps": 2, "groups": 1}), progress=False)
    assert "2 of 2 steps were passed over: gradients overflowed fp16" in caplog.text


def test_the_row_is_counted_across_a_resume_and_broken_by_a_step():
    scaler = torch.amp.GradScaler("cpu")
    first = LossScale(scaler)
    for step in range(1, 20):
        first.note(step, ["a"], skipped=True)
    second = LossScale(scaler)
    second.restore(first.state())
    assert second.skipped == 19
    with pytest.raises(DivergenceError, match="step 20: the last 20 steps"):
        second.note(20, ["a"], skipped=True)
    first.note(20, ["a"], skipped=False)
    for step in range(21, 40):
        first.note(step, ["a"], skipped=True)
    assert first.skipped == 38


def test_no_scaler_no_figures():
    scale = LossScale(None)
    scale.note(1, ["a"], skipped=False)
    assert (scale.figures(), scale.state()) == ({}, None)
