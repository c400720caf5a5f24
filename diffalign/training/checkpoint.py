"""Checkpoints: written whole or not at all, and never trusted without their hashes.

A checkpoint is a folder `checkpoints/step-N/`:

    policy.safetensors    the trained adapter          ema.safetensors   its average, where one is kept
    trainer.pt            optimizer, schedule, gradient scaler and alarms (read with weights_only)
    state.json            step, seconds of training so far
    manifest.json         sha256 of every other file
    round.0.safetensors   of an online run, what the round's policy drew; round.1 and so on of further processes

Of a run whose networks are in pieces (`training.sharding`), every process writes its own at the same time, and the tensors
of the optimizer stand beside trainer.pt:

    policy-00001-of-00002.safetensors, ...    ema-00001-of-00002.safetensors, ...    optimizer-00001-of-00002...

Any number of processes goes on from either kind. It is written under a temporary name, flushed to disk and put in its
place; a folder without a matching manifest is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffalign.backbones import recover_folders, replace_folder
from diffalign.exceptions import CheckpointError, SaveError
from diffalign.training.piece_files import PiecesOnDisk, find_pieces, piece_file, write_pieces
from diffalign.training.team import Team

log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d+)")
_OWN = "round"
_REQUIRED = {"policy.safetensors", "trainer.pt", "state.json"}


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on to the bit; the data position and every draw follow from step and seed.

    Attributes:
        adapters: the tensors of "policy", and of "ema" where one is kept; in pieces (`DTensor`) where the networks are.
        trainer: what else there is, with the optimizer's state under "optimizer".
        pieces: the optimizer's tensors that are in pieces, as `split_optimizer` names them; they are not in `trainer`.
        own: tensors that this process alone has, by names that no other process has; read back, those of all.
    """

    progress: Progress
    adapters: Mapping[str, Mapping[str, Tensor]]
    trainer: dict[str, Any]
    pieces: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, keep: int, team: Team = Team()) -> Path:  # noqa: B008
    """Write `run/checkpoints/step-N` atomically, then drop what is older than the newest `keep` that are whole.

    Checkpoints of later steps are dropped too: the run has gone back behind them (they were damaged). All processes of a
    run call it.

    Raises:
        SaveError: it cannot be written, by whichever process; the checkpoints that were there are unharmed.
    """
    home = run / "checkpoints"
    step = checkpoint.progress.step
    folder = home / f"step-{step}"
    draft = home / f".{folder.name}.partial"
    try:
        team.main_alone(lambda: _start_draft(draft))
        hashes = team.together(lambda: _write_files(draft, checkpoint, team))
        team.main_alone(lambda: _finish(draft, folder, hashes))
    except OSError as error:
        if team.is_main:
            shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(
            f"{folder}: cannot be written ({error}); the checkpoints before it are unharmed: free some space and go on "
            f"with diffalign train --resume {run}"
        ) from None
    if team.is_main:
        _drop_old(run, folder, keep)
    return folder


def _start_draft(draft: Path) -> None:
    draft.parent.mkdir(exist_ok=True)
    for leftover in draft.parent.glob(".step-*.partial"):  # of a run that was killed while writing
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir()


def _write_files(draft: Path, checkpoint: Checkpoint, team: Team) -> dict[str, str]:
    """Write what is this process's to write; the hashes of its files."""
    parts = {**checkpoint.adapters, **({"optimizer": checkpoint.pieces} if checkpoint.pieces else {})}
    written = []
    for name, state in parts.items():
        if any(isinstance(tensor, DTensor) for tensor in state.values()):
            written.append(piece_file(name, team.rank, team.world))
            write_pieces(draft, name, state, rank=team.rank, world=team.world)
        elif team.is_main:
            written.append(f"{name}.safetensors")
            tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
            save_file(tensors, draft / written[-1])
    if checkpoint.own:
        written.append(f"{_OWN}.{team.rank}.safetensors")
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in checkpoint.own.items()}, draft / written[-1]
        )
    if team.is_main:
        written += ["trainer.pt", "state.json"]
        torch.save(checkpoint.trainer, draft / "trainer.pt")
        (draft / "state.json").write_text(json.dumps(asdict(checkpoint.progress)))
    for name in written:
        _flush(draft / name)  # the main process cannot do it for another machine
    return {name: _sha256(draft / name) for name in written}


def _finish(draft: Path, folder: Path, hashes: Sequence[Mapping[str, str]]) -> None:
    every = {name: digest for each in hashes for name, digest in each.items()}
    (draft / "manifest.json").write_text(json.dumps(dict(sorted(every.items())), indent=2))
    replace_folder(draft, folder)


def _drop_old(run: Path, newest: Path, keep: int) -> None:
    whole = 0
    for path in reversed(list_checkpoints(run)):
        if step_of(path) > step_of(newest) or whole == keep:
            shutil.rmtree(path, ignore_errors=True)
        elif path == newest or _is_whole(path):
            whole += 1


def _is_whole(folder: Path) -> bool:
    try:
        _verify(folder)
    except CheckpointError as error:
        log.warning("%s; it does not count among the checkpoints that are kept", error)
        return False
    return True


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first (not yet verified)."""
    home = run / "checkpoints"
    recover_folders(home)
    found = [path for path in home.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def latest_checkpoint(run: Path) -> Path:
    """The newest checkpoint whose files match their hashes; a damaged one is passed over with a warning.

    Raises:
        CheckpointError: there is none.
    """
    folders = list_checkpoints(run)
    for folder in reversed(folders):
        try:
            _verify(folder)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
        else:
            return folder
    raise CheckpointError(
        f"{run}: no usable checkpoint among {len(folders)}; start the run again with diffalign train --config "
        f"{run / 'config.yaml'}"
    )


def load_latest(run: Path, team: Team = Team()) -> Checkpoint:  # noqa: B008
    """What `latest_checkpoint` finds; of several processes, which all call it, the main one looks for it.

    Raises:
        CheckpointError: there is none.
    """
    return read_verified(team.from_main(lambda: latest_checkpoint(run)))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Verify and read one checkpoint folder.

    Raises:
        CheckpointError: a file is missing or does not match its hash.
    """
    _verify(folder)
    return read_verified(folder)


def read_verified(folder: Path) -> Checkpoint:
    """Read a folder that `latest_checkpoint` found; what is in pieces is read when it is asked for."""
    names = json.loads((folder / "manifest.json").read_text())
    sets = find_pieces(names)
    parts: dict[str, Mapping[str, Tensor]] = {
        name: PiecesOnDisk([folder / file for file in files]) for name, files in sets.items()
    }
    own: dict[str, Tensor] = {}
    for name in names:
        if name.startswith(f"{_OWN}."):
            own |= load_file(folder / name)
        elif name.endswith(".safetensors") and not any(name in files for files in sets.values()):
            parts[name.removesuffix(".safetensors")] = load_file(folder / name)
    pieces = parts.pop("optimizer", {})
    trainer = torch.load(folder / "trainer.pt", weights_only=True, map_location="cpu")
    return Checkpoint(_progress(folder), parts, trainer, pieces, own)


def saved_settings(folder: Path) -> tuple[Mapping[str, Any] | None, int]:
    """What a verified checkpoint was trained with (None: an older diffalign kept none), and its step; no tensor is read."""
    trainer = torch.load(folder / "trainer.pt", weights_only=True, map_location="cpu", mmap=True)
    return trainer.get("settings"), _progress(folder).step


def _progress(folder: Path) -> Progress:
    return Progress(**json.loads((folder / "state.json").read_text()))


def _verify(folder: Path) -> None:
    """Compare every file with its hash.

    Raises:
        CheckpointError: a file is missing or does not match.
    """
    try:
        manifest: dict[str, str] = dict(json.loads((folder / "manifest.json").read_text()))
        missing = _REQUIRED - {*manifest, *(f"{name}.safetensors" for name in find_pieces(manifest))}
        if missing:
            raise ValueError(f"the manifest lacks {', '.join(sorted(missing))}")
        damaged = [name for name, digest in manifest.items() if _sha256(folder / name) != digest]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint ({error})") from None
    if damaged:
        raise CheckpointError(f"{folder}: damaged, {', '.join(damaged)} does not match its hash")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
