"""Runs of several gloo processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def start_processes(home: Path, *command: str, processes: int = 2) -> subprocess.Popen[str]:
    """`torchrun --standalone` of a script, or of `-m module`, in a folder."""
    launcher = ["torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *command],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_processes(home: Path, *command: str, processes: int = 2, timeout: int = 240) -> tuple[int, str, str]:
    """... and wait for it: exit code, stdout, stderr."""
    process = start_processes(home, *command, processes=processes)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err
