"""A run that goes on with another number of processes, and one in which a process dies or cannot write."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.yaml_values import write_yaml
from diffalign.training import resume, train
from diffalign.training.checkpoint import latest_checkpoint, list_checkpoints
from tests.data.pictures import pairs_folder
from tests.training.sharded_steps import FULL, SMALL
from tests.training.tiny import rows, tiny, tiny_settings
from tests.training.torchrun import run_processes, start_processes

TRAIN = ("-m", "diffalign", "train")
SECTIONS: dict[str, Any] = {"model": FULL, "optimizer": SMALL}
TRAINING = {
    "steps": 4,
    "checkpoint_every": 2,
    "keep_checkpoints": 5,
    "ema_decay": 0.5,
    "threads": 1,
    "sharding": "fsdp2",
}


def write_config(home: Path, **sections: Any) -> None:
    (home / "x.yaml").write_text(write_yaml(tiny_settings(home, **sections)), encoding="utf-8")


def run_folder(home: Path) -> Path:
    (folder,) = (home / "runs").glob("tiny-*")
    return folder


def cut_back(run: Path, home: Path, step: int) -> Path:
    """A copy of a run as it was when it had saved that step."""
    folder = home / f"{run.name}-cut"
    shutil.copytree(run, folder)
    for path in list_checkpoints(folder):
        if path.name != f"step-{step}":
            shutil.rmtree(path)
    for name in ("adapter", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def result(run: Path) -> dict[str, torch.Tensor]:
    (file,) = [*run.glob("adapter/*.safetensors"), *run.glob("model/unet/*.safetensors")]
    return load_file(file)


def assert_same_course(run: Path, whole: Path, split: tuple[int, int]) -> None:
    """To rounding: sums are made in another order."""
    (mark,) = rows(run, "resume")
    assert (mark["processes"], mark["accumulation"]) == split
    for name in ("loss", "gradient_norm", "winner_error"):
        seen = [[row[name] for row in rows(each)] for each in (run, whole)]
        torch.testing.assert_close(*seen, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(result(run), result(whole), rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_pieces_of_two_processes_go_on_in_one(tmp_path):
    write_config(tmp_path, training=TRAINING | {"groups": 1, "processes": 2}, **SECTIONS)
    code, _, err = run_processes(tmp_path, *TRAIN, "--config", "x.yaml")
    assert code == 0, err
    whole = run_folder(tmp_path)
    pieces = {f"{name}-0000{each}-of-00002.safetensors" for name in ("policy", "ema", "optimizer") for each in (1, 2)}
    checkpoint = whole / "checkpoints" / "step-2"
    assert {path.name for path in checkpoint.iterdir()} == pieces | {"trainer.pt", "state.json", "manifest.json"}
    sizes = [sum(path.stat().st_size for path in checkpoint.glob(f"*-0000{each}-*")) for each in (1, 2)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    done = resume(
        cut_back(whole, tmp_path, 2), progress=False, overrides=["training.processes=1", "training.accumulation=2"]
    )
    assert_same_course(done.folder, whole, (1, 2))
    assert (done.folder / "checkpoints" / "step-4" / "policy.safetensors").exists()


@pytest.mark.slow
def test_one_process_goes_on_as_two_with_pieces(tmp_path):
    training = TRAINING | {"groups": 1, "accumulation": 2}
    whole = train(tiny(tmp_path, training=training, **SECTIONS), progress=False).folder
    folder = cut_back(whole, tmp_path, 2)
    split = ("--set", "training.processes=2", "--set", "training.accumulation=1")
    code, out, err = run_processes(tmp_path, *TRAIN, "--resume", str(folder), *split)
    assert code == 0, err
    assert out.rstrip().endswith(str(folder))
    assert_same_course(folder, whole, (2, 1))
    assert (folder / "checkpoints" / "step-4" / "policy-00002-of-00002.safetensors").exists()


@pytest.mark.slow
def test_pieces_of_two_processes_go_on_in_three(tmp_path):
    """A LoRA of rank 2: a third process has no row of half of its tensors."""
    write_config(tmp_path, training=TRAINING | {"groups": 3, "processes": 2}, optimizer=SMALL)
    code, _, err = run_processes(tmp_path, *TRAIN, "--config", "x.yaml")
    assert code == 0, err
    whole = run_folder(tmp_path)
    folder = cut_back(whole, tmp_path, 2)
    split = ("--set", "training.processes=3", "--set", "training.groups=2")
    code, _, err = run_processes(tmp_path, *TRAIN, "--resume", str(folder), *split, processes=3)
    assert code == 0, err
    assert_same_course(folder, whole, (3, 1))
    pieces = list((folder / "checkpoints" / "step-4").glob("policy-*-of-00003.safetensors"))
    assert len(pieces) == 3


@pytest.mark.slow
def test_adapter_of_two_whole_copies_goes_on_in_one(tmp_path):
    """DDP: nothing in a checkpoint depends on how many there were."""
    training = TRAINING | {"groups": 1, "processes": 2, "sharding": "none"}
    write_config(tmp_path, training=training, optimizer=SMALL)
    code, _, err = run_processes(tmp_path, *TRAIN, "--config", "x.yaml")
    assert code == 0, err
    whole = run_folder(tmp_path)
    overrides = ["training.processes=1", "training.groups=2"]
    done = resume(cut_back(whole, tmp_path, 2), progress=False, overrides=overrides)
    assert_same_course(done.folder, whole, (1, 1))


# ---------------------------------------------------------------- the end of one is the end of all


def messages(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_a_killed_process_ends_all_with_one_message(tmp_path, victim, sharding):
    training = {"steps": 500, "groups": 1, "processes": 2, "threads": 1, "checkpoint_every": 3, "sharding": sharding}
    write_config(tmp_path, training=training)
    (tmp_path / "script.py").write_text(
        "import os, pathlib\nfrom diffalign.cli import main\n"
        "pathlib.Path(f'pid-{os.environ[\"RANK\"]}').write_text(str(os.getpid()))\nmain()\n"
    )
    process = start_processes(tmp_path, "script.py", "train", "--config", "x.yaml")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/*/checkpoints/step-6/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.kill(int((tmp_path / f"pid-{victim}").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 25  # not the hours of the process group's timeout, nor torchrun's half minute
    assert process.returncode not in (0, None)
    folder = run_folder(tmp_path)
    (told,) = messages(err)
    assert "another process of this run has ended" in told
    assert told.endswith(f"what was saved is unharmed: go on with diffalign train --resume {folder}")
    ours = [line for line in err.splitlines() if line.startswith("[rank")]  # torchrun's own report is not ours
    assert ours == [], err
    saved = latest_checkpoint(folder)
    assert int(saved.name.removeprefix("step-")) >= 6
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("steps: 500", "steps: 8"))
    overrides = ["training.processes=1", "training.groups=2"]
    if int(saved.name.removeprefix("step-")) < 8:
        assert resume(folder, progress=False, overrides=overrides).steps == 8


BREAKING = """
import os, sys
from diffalign.cli import main
from diffalign.training import checkpoint

if os.environ["RANK"] == "1":
    original, calls = checkpoint.write_pieces, []

    def write_pieces(folder, name, state, **options):
        calls.append(name)
        if len(calls) > 3:  # policy and optimizer of the first checkpoint, policy of the second
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")
        original(folder, name, state, **options)

    checkpoint.write_pieces = write_pieces
main()
"""


@pytest.mark.slow
def test_a_full_disk_under_one_process_ends_all(tmp_path):
    training = {"steps": 9, "groups": 1, "processes": 2, "threads": 1, "checkpoint_every": 2, "sharding": "fsdp2"}
    write_config(tmp_path, training=training)
    (tmp_path / "script.py").write_text(BREAKING)
    code, _, err = run_processes(tmp_path, "script.py", "train", "--config", "x.yaml")
    assert code == 1
    folder = run_folder(tmp_path)
    (told,) = messages(err)
    assert told == (
        f"error: {folder}/checkpoints/step-4: cannot be written (process 1: [Errno 28] No space left on device); the "
        f"checkpoints before it are unharmed: free some space and go on with diffalign train --resume {folder}"
    )
    assert "[rank" not in err, err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-2"]
    assert latest_checkpoint(folder).name == "step-2"


FULL = """
import os
from diffalign.cli import main
from diffalign.training.micro_batch import GroupLoss

if os.environ["RANK"] == "1":
    def backward(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    GroupLoss.backward = backward
main()
"""


@pytest.mark.slow
def test_a_full_memory_of_one_process_ends_all(tmp_path):
    write_config(tmp_path, training={"steps": 9, "groups": 1, "processes": 2, "threads": 1})
    (tmp_path / "script.py").write_text(FULL)
    code, _, err = run_processes(tmp_path, "script.py", "train", "--config", "x.yaml")
    assert code == 1
    (told,) = messages(err)
    assert told.startswith("error: out of memory ([enforce fail] DefaultCPUAllocator: can't allocate memory")
    assert "[rank" not in err, err


@pytest.mark.slow
def test_a_bad_picture_of_one_process_ends_all(tmp_path):
    pairs = pairs_folder(tmp_path / "pairs", 5)
    (pairs / "0b.png").write_bytes(b"no picture")  # the second one: of process 1
    write_config(tmp_path, data={"path": str(pairs), "resolution": 16}, training={"processes": 2, "threads": 1})
    code, _, err = run_processes(tmp_path, *TRAIN, "--config", "x.yaml")
    assert code == 1  # torchrun's
    (told,) = messages(err)
    assert told.startswith("error: record 'r0': not a readable picture")
    assert re.search(r"exitcode  : [12]\b", err)  # of whichever process the launcher saw end first
    assert "[rank" not in err, err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"training": {"processes": 3}}, {"training": {"steps": 0}}], ids=["started", "before"]
)
def test_what_is_wrong_for_all_is_said_once(tmp_path, settings):
    write_config(tmp_path, **settings)
    code, _, err = run_processes(tmp_path, *TRAIN, "--config", "x.yaml")
    assert code == 1
    assert len(messages(err)) == 1, err
    assert "exitcode  : 2" in err
    assert "[rank" not in err
