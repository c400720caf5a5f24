"""kill -9 at thirty moments of a run, also while a checkpoint is written: it ends as if nothing had been, to the bit."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from diffalign.training import train
from diffalign.training.checkpoint import list_checkpoints
from tests.data.pictures import pairs_folder
from tests.end_to_end.kills import any_of, kill, lines, moments, resume_again, train_until, wait
from tests.training.tiny import assert_same_run, rows, tiny

STEPS = 100  # more than thirty lives, which see three steps at most, come to
KILLS, WHILE_WRITING = 30, 12


def config(home: Path, shared: Path, **sections: Any) -> Any:
    data = {"path": str(shared / "data"), "resolution": 16, "cache": str(shared / "cache"), "flip": True}
    training = {"steps": STEPS, "groups": 1, "checkpoint_every": 1, "threads": 1} | sections.pop("training", {})
    return tiny(home, data=data, training=training, **sections)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [{"training": {"ema_decay": 0.9}, "health": {"window": 5, "winner_error_limit": 1.01}}],
    ids=["ema and alarms"],
)
def test_killed_thirty_times_equals_uninterrupted(tmp_path, sections):
    pairs_folder(tmp_path / "data", 5)
    began = time.monotonic()
    whole = train(config(tmp_path / "whole", tmp_path, **sections), progress=False).folder
    step_seconds = (time.monotonic() - began) / STEPS
    draw = random.Random(0)
    home = tmp_path / "killed"
    process, folder = train_until(config(home, tmp_path, **sections), home)
    partials = 0
    for kind in moments(KILLS, WHILE_WRITING, seed=0):
        before = lines(folder)
        if kind == "load":  # anywhere from the start of the process to its first step
            time.sleep(draw.uniform(0, 1.0))
        else:
            wait(process, lambda before=before: lines(folder) > before)  # it goes on
            if kind == "partial":
                wait(process, any_of(folder / "checkpoints", ".step-*.partial"))
                time.sleep(draw.uniform(0, 0.01))
            else:
                time.sleep(draw.uniform(0, 2 * step_seconds))
        assert kill(process), f"it ended before it was killed {KILLS} times"
        partials += any_of(folder / "checkpoints", ".step-*.partial")()
        assert len(list_checkpoints(folder)) <= 3  # two are kept, and the one that has just come
        process = resume_again(folder)
    process.join(240)
    assert process.exitcode == 0
    assert partials >= 3, "no kill came while a checkpoint was written"
    assert_same_run(folder, whole, STEPS)
    assert [row["step"] for row in rows(folder)] == list(range(1, STEPS + 1))
    assert rows(folder, "alarm") == rows(whole, "alarm") != []
    resumed = [row["step"] for row in rows(folder, "resume")]
    assert resumed == sorted(resumed) and len(resumed) >= 10
    assert not [path for path in folder.rglob(".*")]


@pytest.mark.slow
def test_killed_while_the_adapter_is_written(tmp_path):
    """The last files of a run, and the run gone on with."""
    pairs_folder(tmp_path / "data", 3)
    sections: dict[str, Any] = {"training": {"steps": 2}}
    whole = train(config(tmp_path / "whole", tmp_path, **sections), progress=False).folder
    home = tmp_path / "killed"
    process, folder = train_until(config(home, tmp_path, **sections), home)
    for _ in range(5):
        wait(process, any_of(folder, ".adapter.partial"))
        kill(process)
        if (folder / "adapter").exists():  # it was faster
            break
        process = resume_again(folder)
    process.join(240)
    assert_same_run(folder, whole, 2)
    assert not [path for path in folder.rglob(".*")]
