"""Tensors in pieces on disk: any number of readers finds what any number of writers wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffalign.training.piece_files import PiecesOnDisk, find_pieces, join_optimizer, piece_file, split_optimizer


def write(folder: Path, tensors: dict[str, Tensor], world: int) -> list[Path]:
    """As so many processes would, cut as torch.chunk does; the first has what all have ("whole")."""
    for rank in range(world):
        mine, pieces = {}, {}
        for name, tensor in tensors.items():
            size = -(-len(tensor) // world)
            rows = tensor if name == "whole" else tensor[rank * size : (rank + 1) * size]
            if len(rows) and (name != "whole" or rank == 0):
                first = 0 if name == "whole" else rank * size
                mine[name], pieces[name] = rows.clone(), {"shape": list(tensor.shape), "first": first}
        save_file(mine, folder / piece_file("policy", rank, world), metadata={"pieces": json.dumps(pieces)})
    return sorted(folder.glob("policy-*"))


TENSORS = {
    "many": torch.arange(21.0).view(7, 3),
    "few": torch.arange(4.0).view(1, 4),
    "whole": torch.tensor([5.0, 6.0]),
}


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_all_rows_from_any_number_of_files(tmp_path, world):
    pieces = PiecesOnDisk(write(tmp_path, TENSORS, world))
    assert set(pieces) == set(TENSORS)
    assert len(pieces) == 3
    for name, tensor in TENSORS.items():
        assert torch.equal(pieces[name], tensor)
        assert pieces.shape(name) == tensor.shape
        for first in range(len(tensor) + 1):
            for last in range(first, len(tensor) + 1):
                rows = pieces.rows(name, first, last)
                assert rows.shape == tensor[first:last].shape
                assert torch.equal(rows, tensor[first:last])


def test_a_set_that_lacks_a_file():
    names = [piece_file("policy", rank, 3) for rank in range(3)] + ["trainer.pt", "ema.safetensors"]
    assert find_pieces(names) == {"policy": names[:3]}
    for lost in range(3):
        with pytest.raises(ValueError, match="policy is in 3 pieces, and there are policy-0000"):
            find_pieces(each for number, each in enumerate(names) if number != lost)


def test_optimizer_without_pieces_is_as_it_was():
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    rest, pieces = split_optimizer(optimizer.state_dict())
    assert pieces == {}
    joined = join_optimizer(rest, pieces, [weight])
    assert joined["param_groups"] == optimizer.state_dict()["param_groups"]
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(joined["state"][0][name], value)


def test_optimizer_of_other_parameters(tmp_path):
    state = {"state": {0: {"step": torch.tensor(1.0)}, 1: {"step": torch.tensor(1.0)}}, "param_groups": []}
    with pytest.raises(LookupError):
        join_optimizer(state, {}, [torch.ones(2)])
