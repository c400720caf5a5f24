"""Checkpoints: whole or not at all, and never trusted without their hashes."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from diffalign.backbones import folder_swap
from diffalign.exceptions import CheckpointError, SaveError
from diffalign.training import checkpoint as room
from diffalign.training.checkpoint import (
    Checkpoint,
    Progress,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)


def at(step: int) -> Checkpoint:
    policy = {"a.weight": torch.full((2, 3), float(step)), "b": torch.arange(step).float()}
    trainer = {"optimizer": {"state": {0: {"step": torch.tensor(step)}}}, "scaler": None, "list": [step, 1.5, "x"]}
    return Checkpoint(Progress(step, step / 2), {"policy": policy, "ema": {"c": torch.ones(2)}}, trainer)


def steps(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(run)]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path, at(3), keep=2)
    seen = load_latest(tmp_path)
    assert seen.progress == Progress(3, 1.5)
    assert seen.adapters.keys() == {"policy", "ema"}
    assert torch.equal(seen.adapters["policy"]["a.weight"], torch.full((2, 3), 3.0))
    assert seen.trainer["list"] == [3, 1.5, "x"]
    assert seen.trainer["optimizer"]["state"][0]["step"] == 3


def test_keeps_the_newest_and_sorts_by_number(tmp_path):
    for step in (2, 9, 10, 100):
        save_checkpoint(tmp_path, at(step), keep=3)
    assert steps(tmp_path) == [9, 10, 100]
    save_checkpoint(tmp_path, at(101), keep=1)
    assert steps(tmp_path) == [101]


def test_saving_again_replaces(tmp_path):
    save_checkpoint(tmp_path, at(3), keep=2)
    damage(tmp_path / "checkpoints/step-3/trainer.pt")
    save_checkpoint(tmp_path, at(3), keep=2)
    assert load_latest(tmp_path).progress.step == 3


@pytest.mark.parametrize("name", ["policy.safetensors", "ema.safetensors", "trainer.pt", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damaged_newest_is_passed_over_with_a_warning(tmp_path, name, how, caplog):
    save_checkpoint(tmp_path, at(1), keep=2)
    newest = save_checkpoint(tmp_path, at(2), keep=2)
    if how == "flip":
        damage(newest / name)
    elif how == "cut":
        (newest / name).write_bytes((newest / name).read_bytes()[:10])
    else:
        (newest / name).unlink()
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path).progress.step == 1
    assert "step-2" in caplog.text
    assert "trying the one before" in caplog.text


@pytest.mark.parametrize("manifest", ["{}", "[]", "3", '{"state.json": "x"}', '{"../x": "y"}'])
def test_manifest_that_proves_nothing(tmp_path, manifest):
    folder = save_checkpoint(tmp_path, at(1), keep=2)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_checkpoint(folder)


def test_going_back_behind_a_damaged_one_loses_nothing(tmp_path):
    """Resumed from step 1 because step 5 is damaged: the next one saved must not be taken for the older."""
    save_checkpoint(tmp_path, at(1), keep=1)
    shutil.copytree(tmp_path / "checkpoints/step-1", tmp_path / "checkpoints/step-5")
    damage(tmp_path / "checkpoints/step-5/trainer.pt")
    save_checkpoint(tmp_path, at(3), keep=1)
    assert steps(tmp_path) == [3]
    assert load_latest(tmp_path).progress.step == 3


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path, caplog):
    for step in (1, 2):
        save_checkpoint(tmp_path, at(step), keep=2)
    damage(tmp_path / "checkpoints/step-2/policy.safetensors")
    with caplog.at_level(logging.WARNING):
        save_checkpoint(tmp_path, at(3), keep=2)
    assert "step-2: damaged, policy.safetensors does not match its hash; it does not count" in caplog.text
    assert steps(tmp_path) == [1, 2, 3]
    damage(tmp_path / "checkpoints/step-3/state.json")
    assert load_latest(tmp_path).progress.step == 1  # there is still one to go back to
    for step in (4, 5):
        save_checkpoint(tmp_path, at(step), keep=2)
    assert steps(tmp_path) == [4, 5]


def test_half_written_and_foreign_folders_are_ignored(tmp_path):
    save_checkpoint(tmp_path, at(1), keep=2)
    home = tmp_path / "checkpoints"
    for name in (".step-2.partial", "step-x", "step-3.old", "notes"):
        (home / name).mkdir()
    (home / "step-4").mkdir()  # a folder without a manifest
    assert load_latest(tmp_path).progress.step == 1
    save_checkpoint(tmp_path, at(2), keep=2)
    assert not (home / ".step-2.partial").exists()
    assert (home / "notes").exists()


def test_none_usable(tmp_path):
    with pytest.raises(CheckpointError, match="no usable checkpoint among 0; start the run again"):
        load_latest(tmp_path)
    damage(save_checkpoint(tmp_path, at(1), keep=1) / "state.json")
    with pytest.raises(CheckpointError, match="no usable checkpoint among 1"):
        load_latest(tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_failed_write_leaves_the_older_ones(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path, at(1), keep=1)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(room.torch, "save", fail)
    with pytest.raises(SaveError, match=r"cannot be written .*the checkpoints before it are unharmed"):
        save_checkpoint(tmp_path, at(2), keep=1)
    assert steps(tmp_path) == [1]
    assert load_latest(tmp_path).progress.step == 1


@pytest.mark.parametrize("step", [1, 2], ids=["again", "next"])
def test_killed_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path, monkeypatch, step):
    """Stop before the n-th flush, rename or removal, for every n: what is listed as newest that verifies is 1 or 2."""

    class Killed(BaseException):
        pass

    for number in range(40):
        run = tmp_path / str(number)
        run.mkdir()
        save_checkpoint(run, at(1), keep=1)
        calls = 0

        def count(original: object, number: int = number) -> object:
            def call(*arguments: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls > number:
                    raise Killed
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for owner, name in (
                (folder_swap, "_flush"),
                (folder_swap.os, "replace"),
                (room.shutil, "rmtree"),
                (room, "save_file"),
            ):
                patch.setattr(owner, name, count(getattr(owner, name)))
            try:
                save_checkpoint(run, at(step), keep=1)
                finished = True
            except Killed:
                finished = False
        assert load_latest(run).progress.step in ((step,) if finished else (1, step))
        if finished:
            assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{step}"]
            return
    raise AssertionError("never finished")


def test_files_say_what_they_are(tmp_path):
    folder = save_checkpoint(tmp_path, at(4), keep=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.keys() == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert json.loads((folder / "state.json").read_text()) == {"step": 4, "seconds": 2.0}
