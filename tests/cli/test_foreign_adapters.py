"""`diffalign generate --adapter`: other people's files are opened as safetensors or not at all."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.exceptions import ConfigError

ZOO = ("-p", "a red circle", "--model", "zoo://shapes-sd", "--steps", 1)


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def adapter(run_folder: Path) -> Path:
    (file,) = (run_folder / "adapter").glob("*.safetensors")
    return file


@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "lora.pt", "lora.ckpt"])
def test_pickle_is_refused(call, tmp_path, adapter, name, as_folder):
    """A readable LoRA, but in the format that can run code."""
    folder = tmp_path / "lora"
    folder.mkdir()
    torch.save(load_file(adapter), folder / name)
    result = call("generate", *ZOO, "-o", tmp_path / "out", "--adapter", folder if as_folder else folder / name)
    assert isinstance(result.exception, ConfigError)
    assert f"{name} is not a .safetensors file" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_pickle_is_not_opened(call, tmp_path):
    folder, mark = tmp_path / "lora", tmp_path / "mark"
    folder.mkdir()
    (folder / "pytorch_lora_weights.bin").write_bytes(pickle.dumps(Trap(mark)))
    assert isinstance(call("generate", *ZOO, "-o", tmp_path / "out", "--adapter", folder).exception, ConfigError)
    assert not mark.exists()


def test_pickle_beside_safetensors_is_passed_over(call, tmp_path, adapter):
    folder, mark = tmp_path / "lora", tmp_path / "mark"
    folder.mkdir()
    shutil.copy(adapter, folder)
    (folder / "pytorch_lora_weights.bin").write_bytes(pickle.dumps(Trap(mark)))
    result = call("generate", *ZOO, "-o", tmp_path / "out", "--adapter", folder)
    assert result.exit_code == 0, result.exception
    assert not mark.exists()


def test_one_file(call, tmp_path, adapter):
    result = call("generate", *ZOO, "-o", tmp_path / "out", "--adapter", adapter)
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize("as_folder", [True, False])
def test_damaged_file(call, tmp_path, as_folder):
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"nonsense")
    result = call("generate", *ZOO, "-o", tmp_path / "out", "--adapter", file.parent if as_folder else file)
    assert isinstance(result.exception, ConfigError)
    assert "is not a LoRA of this model" in str(result.exception)
