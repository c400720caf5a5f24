"""Checkpoints: written whole or not at all, and never trusted without their hashes.

A checkpoint is a folder `checkpoints/step-N/`:

    policy.safetensors    the trained adapter          ema.safetensors   its average, where one is kept
    trainer.pt            optimizer, schedule, gradient scaler and alarms (read with weights_only)
    state.json            step, seconds of training so far
    manifest.json         sha256 of every other file

It is written under a temporary name, flushed to disk and put in its place; a folder without a matching manifest is not
a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffalign.backbones import recover_folders, replace_folder
from diffalign.exceptions import CheckpointError, SaveError

log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d+)")
_REQUIRED = {"policy.safetensors", "trainer.pt", "state.json"}


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on to the bit; the data position and every draw follow from step and seed."""

    progress: Progress
    adapters: dict[str, dict[str, Tensor]]  # "policy", and "ema" where one is kept
    trainer: dict[str, Any]


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `run/checkpoints/step-N` atomically, then drop what is older than the newest `keep` that are whole.

    Checkpoints of later steps are dropped too: the run has gone back behind them (they were damaged).

    Raises:
        SaveError: it cannot be written; the checkpoints that were there are unharmed.
    """
    home = run / "checkpoints"
    step = checkpoint.progress.step
    folder = home / f"step-{step}"
    draft = home / f".{folder.name}.partial"
    try:
        home.mkdir(exist_ok=True)
        for leftover in home.glob(".step-*.partial"):  # of a run that was killed while writing
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir()
        _write_files(draft, checkpoint)
        replace_folder(draft, folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save turns a full disk into a RuntimeError
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(
            f"{folder}: cannot be written ({error}); the checkpoints before it are unharmed: free some space and go on "
            f"with diffalign train --resume {run}"
        ) from None
    whole = 0
    for path in reversed(list_checkpoints(run)):
        if _step(path) > step or whole == keep:
            shutil.rmtree(path, ignore_errors=True)
        elif path == folder or _is_whole(path):
            whole += 1
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        _verify(folder)
    except CheckpointError as error:
        log.warning("%s; it does not count among the checkpoints that are kept", error)
        return False
    return True


def _write_files(draft: Path, checkpoint: Checkpoint) -> None:
    for name, state in checkpoint.adapters.items():
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, draft / f"{name}.safetensors")
    torch.save(checkpoint.trainer, draft / "trainer.pt")
    (draft / "state.json").write_text(json.dumps(asdict(checkpoint.progress)))
    hashes = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
    (draft / "manifest.json").write_text(json.dumps(hashes, indent=2))


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first (not yet verified)."""
    home = run / "checkpoints"
    recover_folders(home)
    found = [path for path in home.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load_latest(run: Path) -> Checkpoint:
    """The newest checkpoint whose files match their hashes; a damaged one is passed over with a warning.

    Raises:
        CheckpointError: there is none.
    """
    folders = list_checkpoints(run)
    for folder in reversed(folders):
        try:
            return load_checkpoint(folder)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
    raise CheckpointError(
        f"{run}: no usable checkpoint among {len(folders)}; start the run again with diffalign train --config "
        f"{run / 'config.yaml'}"
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointError: a file is missing or does not match its hash.
    """
    names = [name for name in _verify(folder) if name.endswith(".safetensors")]
    adapters = {name.removesuffix(".safetensors"): load_file(folder / name) for name in names}
    trainer = torch.load(folder / "trainer.pt", weights_only=True, map_location="cpu")
    return Checkpoint(Progress(**json.loads((folder / "state.json").read_text())), adapters, trainer)


def _verify(folder: Path) -> list[str]:
    """The names of its files.

    Raises:
        CheckpointError: a file is missing or does not match its hash.
    """
    try:
        manifest: dict[str, str] = dict(json.loads((folder / "manifest.json").read_text()))
        missing = _REQUIRED - manifest.keys()
        if missing:
            raise ValueError(f"the manifest lacks {', '.join(sorted(missing))}")
        damaged = [name for name, digest in manifest.items() if _sha256(folder / name) != digest]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint ({error})") from None
    if damaged:
        raise CheckpointError(f"{folder}: damaged, {', '.join(damaged)} does not match its hash")
    return list(manifest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
