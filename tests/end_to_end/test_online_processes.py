"""Online runs of two processes: what each draws and learns adds up to what one does; and a round goes on in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffalign.config import with_absolute_paths
from diffalign.config.yaml_values import write_yaml
from diffalign.training import train
from tests.training.online import online
from tests.training.tiny import adapter, rows

CHECKOUT = Path(__file__).parents[2]
TORCHRUN = (
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
)
CASES = {
    "trajectories": ({"name": "d3po"}, "sd", {"passes": 2}),
    "advantages of the whole batch": ({"name": "nft"}, "sd3", {"advantage": {"scope": "batch"}, "draws": 2}),
    "sets": (
        {"name": "dragon", "contrast": "dpo", "beta": 500.0},
        "sd",
        {"set_reward": {"name": "vendi"}, "quality_weight": 2.0},
    ),
}


def in_two_processes(home: Path, config) -> Path:
    (home / "x.yaml").write_text(write_yaml(with_absolute_paths(config).model_dump(mode="json")), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *TORCHRUN, "-m", "diffalign", "train", "--config", "x.yaml"]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["trajectories", *(pytest.param(each, marks=pytest.mark.long) for each in list(CASES)[1:])]
)
def test_two_processes_equal_one(tmp_path, case):
    """Each draws its groups, all know the rewards of all: the same pictures, sets, advantages and steps."""
    objective, family, settings = CASES[case]
    runs = []
    for training in ({"processes": 2}, {"accumulation": 2}):
        config = online(
            tmp_path, objective, family, online=settings, training={"groups": 2, "steps": 4, "threads": 1} | training
        )
        runs.append(
            in_two_processes(tmp_path, config) if "processes" in training else train(config, progress=False).folder
        )
    torch.testing.assert_close(*map(adapter, runs), rtol=1e-4, atol=1e-6)
    for name in ("loss", "gradient_norm", "silent_prompts", "round_scene"):
        seen = [[row[name] for row in rows(run) if name in row] for run in runs]
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-6)
