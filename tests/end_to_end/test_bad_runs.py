"""Run folders that cannot be gone on with, judged or reported; adapters of something else; trackers that are absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from diffalign.training import train
from tests.end_to_end.bad_input import call, refused, settings_file
from tests.training.tiny import adapter, assert_equal, rows, tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with every checkpoint kept, and what it was made from."""
    home = tmp_path_factory.mktemp("runs")
    training = {"steps": 4, "groups": 1, "checkpoint_every": 1, "keep_checkpoints": 9, "ema_decay": 0.5}
    return train(tiny(home, training=training), progress=False).folder


@pytest.fixture
def cut_off(finished: Path, tmp_path: Path) -> Path:
    """The same run as a power cut at step 3 would have left it."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "checkpoints/step-4")
    return folder


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def edit(run: Path, path: str, value: Any) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    *parents, last = path.split(".")
    here = content
    for parent in parents:
        here = here[parent]
    here[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


# ---------------------------------------------------------------- a changed config

# setting, new value: what the steps follow from
REFUSED: list[tuple[str, Any]] = [
    ("model.lora.rank", 4),
    ("model.lora.alpha", 4.0),
    ("model.path", "zoo://shapes-sd/"),
    ("objective.beta", 100.0),
    ("objective", {"name": "ipo"}),
    ("data.pairs_per_group", 1),
    ("data.empty_prompt_share", 0.5),
    ("optimizer.learning_rate", 1e-5),
    ("optimizer.schedule", "cosine"),
    ("time", {"sampling": "stratified"}),
    ("training.groups", 2),
    ("training.ema_decay", 0.9),
    ("seed", 1),
]


@pytest.mark.parametrize(("path", "value"), REFUSED, ids=[row[0] for row in REFUSED])
def test_changed_setting_is_refused(cut_off, path, value):
    edit(cut_off, path, value)
    told = "training.groups x accumulation x processes" if path == "training.groups" else path
    says = ("config.yaml is not the one that step 3 was trained with; put it back", f"  {told}", ": was ", ", is ")
    if path == "model.path":
        says = ("model.path: ",)
    refused(cut_off, "train", "--resume", cut_off, says=says)


def test_all_changes_stand_in_one_message(cut_off):
    edit(cut_off, "seed", 7)
    edit(cut_off, "optimizer.learning_rate", 0.5)
    says = ("  seed: was 0, is 7\n", "  optimizer.learning_rate: was 0.001, is 0.5\n")
    refused(cut_off, "train", "--resume", cut_off, says=says)


def test_what_may_be_changed(cut_off):
    """More steps, other logs and alarms: the steps that both have are the same."""
    before = rows(cut_off)[:3]
    for path, value in {
        "training.steps": 5,
        "training.log_every": 5,
        "training.max_batch": 1,
        "training.threads": 1,
        "health.saturation": "off",
        "training.keep_checkpoints": 1,
    }.items():
        edit(cut_off, path, value)
    seen = call("train", "--resume", cut_off)
    assert seen.code == 0, seen.err
    assert rows(cut_off)[:3] == before
    assert [row["step"] for row in rows(cut_off)] == [1, 2, 3, 5]
    assert [path.name for path in (cut_off / "checkpoints").iterdir()] == ["step-5"]


def test_checkpoint_of_before_settings_were_kept(cut_off):
    """It is gone on with, as it was then."""
    from diffalign.training import checkpoint

    for folder in (cut_off / "checkpoints").iterdir():
        state = torch.load(folder / "trainer.pt", weights_only=True)
        del state["settings"]
        torch.save(state, folder / "trainer.pt")
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["trainer.pt"] = checkpoint._sha256(folder / "trainer.pt")
        (folder / "manifest.json").write_text(json.dumps(manifest))
    edit(cut_off, "training.steps", 5)
    seen = call("train", "--resume", cut_off)
    assert seen.code == 0, seen.err


# ---------------------------------------------------------------- run folders

Break = Callable[[Path], object]
COMMANDS: dict[str, tuple[str, ...]] = {
    "resume": ("train", "--resume"),
    "eval": ("eval",),
    "report": ("report",),
    "generate": ("generate", "-p", "a red circle", "-o", "OUT", "--steps", "1", "--run"),
}

# name, what is done to a run, the commands that refuse it, what the message says
RUNS: list[tuple[str, Break, str, tuple[str, ...]]] = [
    ("absent", shutil.rmtree, "resume eval report generate", ("is not a run folder: it ",)),
    (
        "no config",
        lambda run: (run / "config.yaml").unlink(),
        "resume eval report generate",
        ("it has no config.yaml",),
    ),
    (
        "empty config",
        lambda run: (run / "config.yaml").write_bytes(b""),
        "resume eval report generate",
        ("config.yaml",),
    ),
    (
        "config cut off",
        lambda run: (run / "config.yaml").write_bytes(b"a: ["),
        "resume eval report generate",
        ("YAML",),
    ),
    (
        "binary config",
        lambda run: (run / "config.yaml").write_bytes(b"\xff"),
        "resume eval report generate",
        ("config.yaml",),
    ),
    (
        "config of a later version",
        lambda run: edit(run, "training.stpes", 1),
        "resume eval generate",
        ("mean 'steps'?",),
    ),
    (
        "no adapter",
        lambda run: shutil.rmtree(run / "adapter"),
        "eval generate",
        ("has no adapter yet: finish it with",),
    ),
    ("empty adapter", lambda run: empty(run / "adapter"), "eval generate", ("cannot read the adapter in", "adapter")),
    ("adapter cut off", lambda run: cut(run / "adapter"), "eval generate", ("cannot read the adapter in",)),
    ("adapter in a pickle", lambda run: pickled(run / "adapter"), "eval generate", ("cannot read the adapter in",)),
    (
        "adapter of another rank",
        lambda run: edit(run, "model.lora.rank", 4),
        "eval generate",
        ("has shape (2,", "not (4,"),
    ),
    (
        "adapter of other layers",
        lambda run: edit(run, "model.lora.targets", ["to_q"]),
        "eval generate",
        ("unexpected",),
    ),
    (
        "adapter of another alpha",
        lambda run: edit(run, "model.lora.alpha", 4.0),
        "eval generate",
        ("alpha 2", "alpha 4"),
    ),
    ("adapter of other sizes", lambda run: other_sizes(run / "adapter"), "eval generate", ("has shape",)),
    ("no prompts", lambda run: None, "eval", ("evaluation.prompts: names no prompts to compare on",)),
    ("model that is gone", lambda run: edit(run, "model.path", "/gone"), "resume eval generate", ("'/gone'",)),
    (
        "all checkpoints damaged",
        lambda run: damage_all(run),
        "resume",
        ("no usable checkpoint among 4; start the run again",),
    ),
]


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def cut(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def other_sizes(folder: Path) -> None:
    from safetensors import safe_open

    (file,) = folder.glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in load_file(file).items()}, file, metadata=about)


def damage_all(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        damage(folder / "policy.safetensors")


@pytest.mark.parametrize(
    ("harm", "command", "says"),
    [(row[1], command, row[3]) for row in RUNS for command in row[2].split()],
    ids=[f"{row[0]}-{command}" for row in RUNS for command in row[2].split()],
)
def test_run_that_is_not_what_it_should_be(finished, tmp_path, harm, command, says):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    harm(run)
    words = [str(tmp_path / "out") if word == "OUT" else word for word in COMMANDS[command]]
    refused(tmp_path, *words, run, says=says)


@pytest.mark.parametrize("command", COMMANDS)
def test_file_in_the_place_of_a_run(tmp_path, command):
    (tmp_path / "run").write_text("not a folder")
    words = [str(tmp_path / "out") if word == "OUT" else word for word in COMMANDS[command]]
    refused(tmp_path, *words, tmp_path / "run", says=("is not a run folder",))


# ---------------------------------------------------------------- checkpoints that a cut left behind


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def truncated(folder: Path) -> None:
    file = folder / "trainer.pt"
    file.write_bytes(file.read_bytes()[:-1000])


def flipped(folder: Path) -> None:
    damage(folder / "policy.safetensors")


def half_copied(folder: Path) -> None:
    (folder / "state.json").unlink()


def of_another(folder: Path) -> None:
    (folder / "ema.safetensors").write_bytes((folder / "policy.safetensors").read_bytes())


@pytest.mark.parametrize("harm", [no_manifest, truncated, flipped, half_copied, of_another])
def test_damaged_checkpoint_is_passed_over(finished, cut_off, harm):
    """With a warning, and the run ends as if nothing had been."""
    harm(cut_off / "checkpoints/step-3")
    seen = call("train", "--resume", cut_off)
    assert seen.code == 0, seen.err
    assert seen.err.count("; trying the one before") == 1
    assert "checkpoints/step-3: " in seen.err
    assert_equal(adapter(cut_off), adapter(finished))
    assert [row["loss"] for row in rows(cut_off)] == [row["loss"] for row in rows(finished)]
    assert [row["step"] for row in rows(cut_off, "resume")] == [2]


def test_half_written_ones_are_swept_up(finished, cut_off):
    home = cut_off / "checkpoints"
    (home / "step-3").rename(home / ".step-3.partial")
    shutil.copytree(finished / "adapter", cut_off / ".adapter.partial")
    (cut_off / ".metrics.jsonl.partial").write_text("{")
    with (cut_off / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    seen = call("train", "--resume", cut_off)
    assert seen.code == 0, seen.err
    assert_equal(adapter(cut_off), adapter(finished))
    assert not [path for path in cut_off.rglob(".*")]


def test_finished_run_is_left_as_it_is(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    seen = call("train", "--resume", run)
    assert seen.code == 0
    assert "this run is finished (4 steps); nothing left to train" in seen.err
    assert_equal(adapter(run), adapter(finished))


# ---------------------------------------------------------------- where runs are made


def blocked(home: Path) -> str:
    (home / "file").write_text("in the way")
    return str(home / "file" / "runs")


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        (lambda home: str(home / "x.yaml"), "folder: {} is a file; choose another with --set folder=..."),
        (blocked, "is a file; choose another with --set folder=..."),
        (lambda home: "/proc/nothing/runs", "/proc/nothing/runs"),
        (lambda home: str(home / ("a" * 300)), "File name too long; give another path"),
        (lambda home: "", "folder: must be a path or a name, got ''"),
    ],
    ids=["a file", "below a file", "where nothing can be made", "name of 300 letters", "empty"],
)
@pytest.mark.parametrize("cache", [True, False], ids=["", "cache in it"])
def test_folder_of_runs(tmp_path, folder, says, cache):
    file = tmp_path / "x.yaml"
    path = folder(tmp_path)
    settings_file(tmp_path, {"folder": path, "data.cache": str(tmp_path / "cache") if cache else None})
    refused(tmp_path, "train", "-c", file, says=(says.format(file),), may_cache=True)


def test_file_in_the_place_of_the_cache(tmp_path):
    (tmp_path / "taken").write_text("in the way")
    file = settings_file(tmp_path, {"data.cache": str(tmp_path / "taken")})
    refused(tmp_path, "train", "-c", file, says=("data.cache: cannot write in", "Not a directory"))


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_tracker_that_is_not_installed(tmp_path, monkeypatch, tracker):
    from diffalign.training import run_log

    found = run_log.importlib.util.find_spec
    monkeypatch.setattr(run_log.importlib.util, "find_spec", lambda name: None if name == tracker else found(name))
    says = (f"log.trackers: needs '{tracker}'; install it with: pip install 'diffalign[trackers]', or leave it out",)
    refused(tmp_path, "train", "-c", settings_file(tmp_path, {"log.trackers": [tracker]}), says=says)


def test_started_by_a_launcher_of_the_wrong_size(tmp_path, monkeypatch):
    """Without torchrun's variables one process is one process, whatever the config says."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    says = ("training.processes: the config asks for 3, this run has 1; start it with torchrun --nproc-per-node 3",)
    refused(tmp_path, "train", "-c", settings_file(tmp_path, {"training.processes": 3}), says=says)
    assert "RANK" not in os.environ
