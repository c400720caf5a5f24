"""A real process that is stopped, killed, or started on two ranks; and what is left of its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.yaml_values import write_yaml
from diffalign.training import resume, train
from tests.data.pictures import pairs_folder
from tests.training.tiny import adapter, assert_same_run, rows, tiny, tiny_settings

CHECKOUT = Path(__file__).parents[2]
MANY = {"steps": 30, "groups": 1, "checkpoint_every": 4, "threads": 1}


def start(home: Path, *launcher: str, **sections: Any) -> subprocess.Popen[str]:
    (home / "x.yaml").write_text(write_yaml(tiny_settings(home, **sections)), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, "diffalign", "train", "--config", "x.yaml"]
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen[str], home: Path, step: int) -> Path:
    """The run folder, as soon as that many steps are in its log."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        for folder in (home / "runs").glob("tiny-*"):
            log = folder / "metrics.jsonl"
            if log.exists() and log.read_text().count('"event": "step"') >= step:
                return folder
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of MANY steps."""
    return train(tiny(tmp_path_factory.mktemp("whole"), training=MANY), progress=False).folder


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signal_saves_and_ends_with_its_code(tmp_path, whole, number, code):
    process = start(tmp_path, training=MANY)
    folder = wait_for_step(process, tmp_path, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert out == ""
    assert err.rstrip().endswith(f"go on with diffalign train --resume {folder}")
    assert f"{signal.Signals(number).name}: finishing this step, then saving" in err
    assert "Traceback" not in err
    saved = rows(folder)[-1]["step"]
    assert 3 <= saved < 30
    assert (folder / "checkpoints" / f"step-{saved}" / "manifest.json").exists()
    resume(folder, progress=False)
    assert_same_run(folder, whole, 30)


@pytest.mark.slow
def test_kill_nine_and_resume_equals_uninterrupted(tmp_path, whole):
    process = start(tmp_path, training=MANY)
    folder = wait_for_step(process, tmp_path, 7)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "adapter").exists()
    done = resume(folder, progress=False)
    assert done.steps == 30
    assert_same_run(folder, whole, 30)


# ---------------------------------------------------------------- two processes

TORCHRUN = (
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
    "-m",
)


def whole_network(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def finished(process: subprocess.Popen[str], timeout: int = 500) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"groups": 1, "accumulation": 2, "max_batch": 1}},
        {"family": "sd3", "objective": {"name": "flow_dpo"}, "time": {"sampling": "stratified"}},
        {"training": {"ema_decay": 0.5}, "objective": {"name": "sft"}, "model": {"gradient_checkpointing": True}},
        {"training": {"reference_bank": 1}, "objective": {"name": "diffusion_kto", "beta": 500.0}},
        {  # Adam's own epsilon makes steps of rounding errors where a gradient is nearly 0
            "model": {"train": "full", "lora": {}},
            "training": {"two_pass": True, "ema_decay": 0.5},
            "optimizer": {"learning_rate": 1e-3, "epsilon": 1e-3},
        },
    ],
    ids=["accumulated-chunked", "sd3-stratified", "ema-sft-checkpointed", "kto-bank", "full-two-passes"],
)
def test_two_processes_equal_one(tmp_path, sections):
    training = {"groups": 2, "steps": 3} | sections.get("training", {})
    both = sections | {"training": training | {"processes": 2}}
    code, out, err = finished(start(tmp_path, *TORCHRUN, **both))
    assert code == 0, err
    (folder,) = (tmp_path / "runs").glob("tiny-*")  # one folder, made by one process
    assert [row["step"] for row in rows(folder)] == [1, 2, 3]  # each row once
    assert out.strip().splitlines()[-1].endswith(str(folder))
    alone = sections | {"training": training | {"groups": 2 * training["groups"]}}
    single = train(tiny(tmp_path, **alone), progress=False).folder
    trained = whole_network if "train" in sections.get("model", {}) else adapter
    torch.testing.assert_close(trained(folder), trained(single), rtol=1e-5, atol=1e-6)
    for name in ("loss", "winner_error", "gradient_norm"):
        seen = [[row[name] for row in rows(run)] for run in (folder, single)]
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_encode_each_picture_once_between_them(tmp_path):
    pairs_folder(tmp_path / "pairs", 5)
    data = {"path": str(tmp_path / "pairs"), "encode_batch": 2, "flip": True}
    training = {"groups": 1, "steps": 2, "processes": 2, "threads": 1}
    code, _, err = finished(start(tmp_path, *TORCHRUN, data=data, training=training))
    assert code == 0, err
    shards = [sorted(json.loads(path.read_text())["keys"]) for path in (tmp_path / "cache").glob("latents-*/*.json")]
    assert len(shards) == 2  # one a process: a picture's hash says whose it is
    assert sum(map(len, shards)) == len(set(shards[0]) | set(shards[1])) == 20
    texts = [json.loads(path.read_text())["keys"] for path in (tmp_path / "cache").glob("texts-*/*.json")]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 5


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(tmp_path):
    data = {"path": str(pairs_folder(tmp_path / "pairs", 5)), "resolution": 16}
    training = {"steps": 60, "groups": 1, "processes": 2}
    evaluation = {"prompts": "zoo://shapes-sd/held_out", "sampler": {"name": "ddim", "steps": 1}, "count": 2}
    sections: dict[str, Any] = {
        "data": data,
        "training": training,
        "samples": {"every": 30, "count": 2},
        "evaluation": evaluation,
    }
    process = start(tmp_path, *TORCHRUN, **sections)
    folder = wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    code, _, err = finished(process)
    assert code != 0
    saved = rows(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"step-{saved}").exists(), err
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *TORCHRUN, "diffalign", "train", "--resume", str(folder)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(folder)] == list(range(1, 61))
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_wrong_number_of_processes_is_refused(tmp_path):
    code, out, err = finished(start(tmp_path, *TORCHRUN))
    assert code != 0
    assert out == ""
    assert "training.processes: the config asks for 1, this run has 2" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_stop_alarm_ends_all_processes(tmp_path):
    health = {"window": 2, "saturation": "stop", "saturation_limit": 5.0}
    code, _, err = finished(start(tmp_path, *TORCHRUN, health=health, training={"processes": 2, "groups": 1}))
    assert code != 0
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    assert (folder / "checkpoints" / "step-2").exists(), err
    assert [row["action"] for row in rows(folder, "alarm")] == ["stop"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["flow_dpo", "sft"])
@pytest.mark.parametrize("count", [2, None], ids=["samples-alone", "with-evaluation"])
def test_pictures_are_drawn_between_steps_and_at_the_end(tmp_path, objective, count):
    """SD3's transformer has a buffer: at the end, when one draws alone, DDP would wait for the other rank to take it."""
    evaluation = {"prompts": "zoo://shapes-sd3/held_out", "sampler": {"name": "flow_euler", "steps": 1}, "count": 2}
    sections: dict[str, Any] = {
        "family": "sd3",
        "objective": {"name": objective},
        "training": {"groups": 1, "steps": 2, "accumulation": 2, "processes": 2, "threads": 1},
        "samples": {"every": 1, "count": 2},
        "evaluation": evaluation,
    }
    launcher = list(TORCHRUN)
    if count is None:
        process = start(tmp_path, *launcher, **sections)
    else:
        (tmp_path / "x.yaml").write_text(write_yaml(tiny_settings(tmp_path, **sections)), encoding="utf-8")
        (tmp_path / "alone.py").write_text(
            "from diffalign.config import load_config\nfrom diffalign.training import train\n"
            "train(load_config('x.yaml'), progress=False)\n"
        )
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *launcher[:-1], "alone.py"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    code, _, err = finished(process, timeout=240)
    assert code == 0, err
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    assert [row["step"] for row in rows(folder, "samples")] == [0, 1, 2]
    assert (folder / "evaluation" / "summary.json").exists() == (count is None)
