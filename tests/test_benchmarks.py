"""The benchmarks run; what they measure is for a quiet machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("step_overhead.py", "--groups", "2", "--steps", "2"), r"median [\d.]+"),
        (("reference_bank.py", "--groups", "64", "--steps", "2"), r"bank / live: median [\d.]+"),
        (("memory_estimate.py", "--models", "shapes-sd"), r"full checkpointing: estimate [\d.]+, tensors [\d.]+"),
        (("inversion.py", "--steps", "4", "--pictures", "2"), r"plain DDIM inversion +error: median [\d.e-]+"),
        (
            (
                "smpo_ablation.py",
                "--out",
                "ablation",
                "--steps",
                "2",
                "--groups",
                "2",
                "--prompts",
                "2",
                "--levels",
                "2",
            ),
            r"soft labels \(smpo\) +graded [\d.]+",
        ),
        (("score_resume.py", "--pictures", "40", "--kills", "2"), r"3 processes, killed \d times: equal"),
        (("rewards.py", "--reward", "jpeg", "--sizes", "64", "--seconds", "0.1"), r"\| `jpeg` \| pictures/s \| \d+ \|"),
        (("stability.py", "--shapes", "3", "--seconds", "0.1"), r"\| exact \| \d+ \| \d+ \|"),
        (("two_passes.py", "--groups", "1", "--members", "2"), r"2 members: one pass +\d+ MB"),
        (("online_memory.py", "--steps", "2"), r"2 sampling steps: peak +\d+ MB"),
        (("paper_way.py", "--groups", "1", "--steps", "2"), r"together / ours: median [\d.]+"),
        (("loading.py", "--pairs", "2", "--repeats", "1"), r"loader / step: [\d.]+"),
        (("utilisation.py", "--groups", "1", "--steps", "1"), r"utilisation \d+%"),
        (
            (
                "utilisation.py",
                "--model",
                "sdxl",
                "--width",
                "0.1",
                "--resolution",
                "64",
                "--groups",
                "1",
                "--steps",
                "1",
            ),
            r"utilisation \d+%",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_benchmark_prints_its_figure(command, line, tmp_path):
    script, *options = command
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / script), *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: above the limit that it promises
    assert re.search(line, done.stdout), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_online_step_needs_no_more_memory_for_more_steps_of_sampling():
    """One of forty steps may keep eight times the trajectories of one of five, which are a hundredth of the peak."""
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / "online_memory.py"), "--steps", "5", "40"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    few, many = (float(peak) for peak in re.findall(r"peak +(\d+) MB", done.stdout))
    assert many < 1.3 * few
