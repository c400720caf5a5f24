"""A folder in the place of another: a cut at any moment leaves the old or the new one, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffalign.backbones import folder_swap, recover_folders, replace_folder


class Cut(BaseException):
    pass


def make(folder: Path, content: str) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text(content)
    return folder


def seen(folder: Path) -> str:
    return (folder / "deep" / "file").read_text()


def test_old_one_is_replaced_and_nothing_stays_beside(tmp_path):
    folder = tmp_path / "folder"
    for content in ("first", "second"):
        replace_folder(make(tmp_path / "draft", content), folder)
        assert seen(folder) == content
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("operation", ["replace", "rmtree"])
@pytest.mark.parametrize("number", [1, 2])
def test_cut_at_any_moment(tmp_path, monkeypatch, operation, number):
    folder = make(tmp_path / "folder", "old")
    draft = make(tmp_path / "draft", "new")
    owner = folder_swap.os if operation == "replace" else folder_swap.shutil
    original, calls = getattr(owner, operation), []

    def act(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == number:
            raise Cut
        original(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(owner, operation, act)
        replace_folder(draft, folder)
    recover_folders(tmp_path)
    assert seen(folder) == ("new" if operation == "rmtree" and number == 2 else "old")
    replace_folder(draft if draft.exists() else make(draft, "new"), folder)  # and the next one is not hindered
    assert seen(folder) == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_failed_rename_leaves_the_old_one(tmp_path):
    folder = make(tmp_path / "folder", "old")
    with pytest.raises(OSError, match="absent"):
        replace_folder(tmp_path / "absent", folder)
    assert seen(folder) == "old"


def test_recovering_nothing(tmp_path):
    recover_folders(tmp_path)
    recover_folders(tmp_path / "absent")
    make(tmp_path / "folder", "x")
    recover_folders(tmp_path)
    assert seen(tmp_path / "folder") == "x"
