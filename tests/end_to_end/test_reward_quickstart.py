"""The quickstart that trains a reward: cut short it beats chance on unseen captions, whole it nears the checker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import run_process

SHORT = ("training.steps=250", "training.evaluate_every=null")


def trained(home: Path, settings: Sequence[str] = ()) -> Path:
    """The run folder."""
    told = [part for each in (f"folder={home}", *settings) for part in ("--set", each)]
    done = run_process("train", "--config", "quickstart/shapes_reward.yaml", *told, cwd=home, timeout=5400)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_the_shapes_reward_beats_chance_and_is_loaded_by_the_bench(tmp_path):
    run = trained(tmp_path, SHORT)
    held_out = json.loads((run / "held_out.json").read_text())["overall"]
    assert held_out["comparisons"] > 1500
    assert held_out["accuracy"] > 0.7  # 0.5 is chance; all 2,400 steps come to over 0.9
    bench = ["rewards", "bench", "-r", f"learned:path={run}", "-r", "scene:form=graded", "-r", "jpeg"]
    told = run_process(
        *bench, "-i", "zoo://shapes-sd/preferences", "--limit", "600", "--json", cwd=tmp_path, timeout=600
    )
    assert told.returncode == 0, told.stderr[-3000:]
    learned, scene, jpeg = (each["accuracy"]["value"] for each in json.loads(told.stdout)["rewards"])
    # another CPU rounds otherwise, and trains another network: 150 comparisons are too few to tell 0.69 from 0.71
    assert scene > 0.99 and learned > 0.66 and learned > jpeg + 0.05


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])  # another seed leaves out other captions too
def test_it_reaches_nine_tenths_of_the_checker_s_accuracy(tmp_path, seed):
    run = trained(tmp_path, [f"seed={seed}"])
    bench = ["rewards", "bench", "-r", f"learned:path={run}", "-r", "scene:form=graded", "--held-out-of", str(run)]
    told = run_process(*bench, "-i", "zoo://shapes-sd/preferences", "--json", cwd=tmp_path, timeout=1200)
    assert told.returncode == 0, told.stderr[-3000:]
    learned, scene = (each["accuracy"]["value"] for each in json.loads(told.stdout)["rewards"])
    assert learned >= 0.9 * scene
