"""A small finished run, and ways to call the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from diffalign.cli.app import app
from diffalign.config.yaml_values import write_yaml
from tests.training.tiny import tiny_settings

CHECKOUT = Path(__file__).parents[2]


def run_process(*arguments: str, cwd: Path, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it, in another folder."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffalign", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture
def call() -> Callable[..., Result]:
    """The command line in this process; errors that `main` would turn into exit codes stand in `exception`."""
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("cli")
    settings = tiny_settings(
        home,
        training={"steps": 2},
        samples={"every": 2, "count": 2},
        evaluation={
            "prompts": "zoo://shapes-sd/held_out",
            "count": 2,
            "sampler": {"name": "ddim", "steps": 2},
            "rewards": [{"name": "scene"}, {"name": "jpeg"}],
            "trained_reward": "scene",
            "quality": "scene.clean",
            "resamples": 100,
        },
    )
    path = home / "tiny.yaml"
    path.write_text(write_yaml(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(config_file: Path) -> subprocess.CompletedProcess[str]:
    """What `diffalign train` printed."""
    return run_process("train", "--config", "tiny.yaml", cwd=config_file.parent)


@pytest.fixture(scope="session")
def run_folder(trained: subprocess.CompletedProcess[str]) -> Path:
    assert trained.returncode == 0, trained.stderr
    return Path(trained.stdout.strip().splitlines()[-1])
