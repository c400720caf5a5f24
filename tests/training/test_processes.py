"""Two processes: a number that goes bad in one of them stops both, and leaves its trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.config.yaml_values import write_yaml
from tests.training.tiny import rows, tiny_settings

CHECKOUT = Path(__file__).parents[2]
SCRIPT = """
import math

from diffalign.config import load_config
from diffalign.exceptions import DivergenceError
from diffalign.training import train
from diffalign.training.micro_batch import GroupLoss

original, calls = GroupLoss.backward, []


def backward(self, *inputs):
    metrics, spoilt = original(self, *inputs)
    calls.append(metrics)
    return metrics | ({"loss": math.nan} if len(calls) == 2 and self._accelerator.process_index == 1 else {}), spoilt


GroupLoss.backward = backward
try:
    train(load_config("x.yaml"), progress=False)
except DivergenceError as error:
    print(f"stopped: {error}")
"""


@pytest.mark.slow
def test_bad_number_in_one_process_stops_both(tmp_path):
    settings = tiny_settings(tmp_path, training={"groups": 1, "processes": 2, "threads": 1})
    (tmp_path / "x.yaml").write_text(write_yaml(settings), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = (
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    )
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stopped: step 2: loss is nan; records of this step: group-") == 2
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    (alarm,) = rows(folder, "alarm")
    assert (alarm["step"], alarm["alarm"]) == (2, "not_finite")
    assert alarm["message"].count("group-") == 2  # the records of both
