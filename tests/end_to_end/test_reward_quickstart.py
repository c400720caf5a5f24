"""The quickstart that trains a reward, cut short: it must beat chance on captions that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import run_process

SHORT = ("training.steps=250", "training.evaluate_every=null")


@pytest.mark.slow
def test_the_shapes_reward_beats_chance_and_is_loaded_by_the_bench(tmp_path):
    settings = [part for each in (f"folder={tmp_path}", *SHORT) for part in ("--set", each)]
    done = run_process("train", "--config", "quickstart/shapes_reward.yaml", *settings, cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Path(done.stdout.strip().splitlines()[-1])
    held_out = json.loads((run / "held_out.json").read_text())["overall"]
    assert held_out["comparisons"] > 1500
    assert held_out["accuracy"] > 0.7  # 0.5 is chance; all 1,600 steps come to over 0.9
    bench = ["rewards", "bench", "-r", f"learned:path={run}", "-r", "scene:form=graded", "-r", "jpeg"]
    told = run_process(
        *bench, "-i", "zoo://shapes-sd/preferences", "--limit", "150", "--json", cwd=tmp_path, timeout=600
    )
    assert told.returncode == 0, told.stderr[-3000:]
    learned, scene, jpeg = (each["accuracy"]["value"] for each in json.loads(told.stdout)["rewards"])
    assert scene > 0.99 and learned > 0.7 > jpeg
