"""Stability in a worker process: a shape that crashes or hangs the simulator costs its own score alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffalign.evaluation import score_records
from diffalign.rewards import IsolatedReward, Sample, isolated, load_reward
from diffalign.rewards.loading import guarded_reward_of_text
from tests.rewards.fragile_stability import CRASH, HANG
from tests.sim.damage import written
from tests.sim.solids import standing_box

FILE = Path(__file__).with_name("fragile_stability.py")
SITE = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mujoco" and "diffalign.rewards._worker" in sys.modules:
            import ctypes
            ctypes.string_at(0)

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="module")
def fragile() -> Iterator[IsolatedReward]:
    reward = isolated(f"{FILE}:make", timeout=5.0)
    yield reward
    reward.close()


def put(folder: Path, **sizes: float) -> Path:
    folder.mkdir()
    for name, size in sizes.items():
        (folder / f"{name}.stl").write_bytes(written(standing_box(0.2, 0.2, size), "stl"))
    return folder


def test_meshes_that_crash_or_hang_cost_themselves_alone(fragile, tmp_path):
    home = put(tmp_path / "shapes", a=0.4, crash=CRASH, b=0.6, hang=HANG, c=0.8)
    done = score_records(home, tmp_path / "s.jsonl", [fragile], batch=5)
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())}
    assert {name for name, row in rows.items() if row["stability"] is not None} == {"a.stl", "b.stl", "c.stl"}
    assert rows["c.stl"]["stability"] == pytest.approx(0.1 / 0.8)
    assert "died of signal 11 (SIGSEGV)" in rows["crash.stl"]["stability_reason"]
    assert "gave no answer in 5 s, and was ended" in rows["hang.stl"]["stability_reason"]
    assert done.summary is not None and done.summary["stability"]["unscored"] == 2


def test_grids_that_crash_cost_themselves_alone(fragile):
    grids = [np.zeros((10, 10, 10), dtype=bool) for _ in range(3)]
    for grid, count in zip(grids, (400, 501, 600), strict=True):
        grid.reshape(-1)[:count] = True
    output = fragile.score([Sample(grid) for grid in grids])
    assert output.values.isnan().tolist() == [False, True, False]
    assert "SIGSEGV" in str(output.reasons[1])


def test_the_numbers_are_those_of_this_process():
    shapes = [Sample(np.ones((4, 4, size), dtype=bool)) for size in (2, 9)]
    here, there = load_reward("stability"), load_reward("stability", process=True)
    assert there.spec.version == here.spec.version
    one, other = here.score(shapes), there.score(shapes)
    assert one.values.tolist() == other.values.tolist()
    assert {name: each.tolist() for name, each in one.components.items()} == {
        name: each.tolist() for name, each in other.components.items()
    }
    there.close()  # type: ignore[attr-defined]


def test_a_command_guards_rewards_of_shapes_alone():
    guarded = guarded_reward_of_text("stability:form=margin")
    assert isinstance(guarded, IsolatedReward) and "-margin-" in guarded.spec.version
    guarded.close()
    for text in ("stability:process=false", "jpeg"):
        assert not isinstance(guarded_reward_of_text(text), IsolatedReward)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_command_survives_a_simulator_that_crashes(tmp_path, processes):
    """MuJoCo, when the worker loads it, is a fault of memory here; what needs no simulation has its score."""
    home = put(tmp_path / "shapes", a=0.4, b=0.6)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = subprocess.run(
        [
            sys.executable, "-m", "diffalign.cli", "score", "--input", str(home), "--reward", "stability", "--reward",
            "stability:form=margin", "--out", str(tmp_path / "s.jsonl"), "--processes", str(processes),
        ],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    for row in map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines()):
        assert row["stability"] is None and "SIGSEGV" in row["stability_reason"]
        assert row["stability:form=margin"] > 0
