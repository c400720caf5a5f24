"""Tensors in pieces on disk: each process writes the rows that it holds, and any number of processes reads what it needs.

`policy-00001-of-00002.safetensors` and so on, plain safetensors; the header says of each tensor its whole shape and the
number of its first row here. Not torch.distributed.checkpoint: the index of that format is a pickle, which runs whatever
code is in it, and the hashes of a checkpoint say that it is undamaged, not who made it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffalign.training.sharding import rows_of

_FILE = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


def piece_file(name: str, rank: int, world: int) -> str:
    """What the file of a process is called."""
    return f"{name}-{rank + 1:05}-of-{world:05}.safetensors"


def write_pieces(folder: Path, name: str, state: Mapping[str, Tensor], *, rank: int, world: int) -> None:
    """Write this process's rows; a tensor that is whole in every process is written by the first."""
    tensors, pieces = {}, {}
    for key, tensor in state.items():
        local, first = (tensor.to_local(), rows_of(tensor)[0]) if isinstance(tensor, DTensor) else (tensor, 0)
        if local.numel() and (isinstance(tensor, DTensor) or rank == 0):
            tensors[key] = local.detach().cpu().contiguous()
            pieces[key] = {"shape": list(tensor.shape), "first": first}
    save_file(tensors, folder / piece_file(name, rank, world), metadata={"pieces": json.dumps(pieces)})


def find_pieces(names: Iterable[str]) -> dict[str, list[str]]:
    """The complete sets of files among these names, by what they are of.

    Raises:
        ValueError: a set lacks a file.
    """
    found: dict[str, list[str]] = {}
    for each in sorted(names):
        if match := _FILE.fullmatch(each):
            found.setdefault(match["name"], []).append(each)
    for name, files in found.items():
        count = int(files[0].removesuffix(".safetensors").rpartition("-")[2])
        if files != [piece_file(name, rank, count) for rank in range(count)]:
            raise ValueError(f"{name} is in {count} pieces, and there are {', '.join(files)}")
    return found


class PiecesOnDisk(Mapping[str, Tensor]):
    """The tensors of a complete set of files; what is asked for is read, and no more."""

    def __init__(self, files: list[Path]) -> None:
        self._files = [safe_open(file, framework="pt") for file in files]
        self._shapes: dict[str, torch.Size] = {}
        self._pieces: dict[str, list[tuple[int, int]]] = {}  # name -> (first row, number of the file)
        for number, file in enumerate(self._files):
            for key, piece in json.loads(file.metadata()["pieces"]).items():
                self._shapes[key] = torch.Size(piece["shape"])
                self._pieces.setdefault(key, []).append((piece["first"], number))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, key: str) -> Tensor:
        whole = [self._files[number].get_tensor(key) for _, number in sorted(self._pieces[key])]
        return whole[0] if len(whole) == 1 else torch.cat(whole)

    def shape(self, key: str) -> torch.Size:
        """Of the whole tensor."""
        return self._shapes[key]

    def rows(self, key: str, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (not included) of the whole tensor."""
        parts = []
        for start, number in sorted(self._pieces[key]):
            piece = self._files[number].get_slice(key)
            end = start + piece.get_shape()[0]
            low, high = max(first, start), min(last, end)
            if low < high:
                parts.append(piece[low - start : high - start])
        return torch.cat(parts) if parts else self._files[self._pieces[key][0][1]].get_slice(key)[0:0]


def placed(saved: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `saved`, in pieces where the tensor of that name in `like` is; of those only the rows are read.

    Raises:
        ValueError: a tensor has another shape than the one of that name.
    """
    return {name: _placed(saved, name, like.get(name)) for name in saved}


def _placed(saved: Mapping[str, Tensor], name: str, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor):
        return saved[name]
    shape = saved.shape(name) if isinstance(saved, PiecesOnDisk) else saved[name].shape
    if shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(shape)}, not {tuple(like.shape)}")
    first, last = rows_of(like)
    rows = saved.rows(name, first, last) if isinstance(saved, PiecesOnDisk) else saved[name][first:last]
    local = rows.to(like.to_local(), copy=True).contiguous()
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer's state without the tensors that are in pieces; and those, as `NUMBER.NAME`."""
    pieces: dict[str, Tensor] = {}
    rest: dict[int, dict[str, Any]] = {}
    for number, entry in state["state"].items():
        rest[number] = {name: value for name, value in entry.items() if not isinstance(value, DTensor)}
        pieces |= {f"{number}.{name}": value for name, value in entry.items() if isinstance(value, DTensor)}
    return state | {"state": rest}, pieces


def join_optimizer(state: dict[str, Any], pieces: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """What an optimizer of these parameters loads, however many processes wrote it.

    Raises:
        ValueError: it is of other parameters.
    """
    joined: dict[int, dict[str, Any]] = {number: dict(entry) for number, entry in state["state"].items()}
    for number, entry in joined.items():
        shape, like = parameters[number].shape, parameters[number]
        mine = {name: value for name, value in entry.items() if isinstance(value, Tensor) and value.shape == shape}
        entry |= placed(mine, dict.fromkeys(mine, like)) if shape else {}
    found = placed(pieces, {key: parameters[int(key.partition(".")[0])] for key in pieces})
    for key, value in found.items():
        index, _, name = key.partition(".")
        joined[int(index)][name] = value
    return state | {"state": joined}
