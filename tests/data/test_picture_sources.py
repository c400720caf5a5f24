"""Where pictures may come from: nested folders, patterns, and lines of another program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffalign.data.line_rows import save_lines
from diffalign.data.picture_rows import is_pattern, read_pictures
from diffalign.exceptions import DataError
from tests.data.pictures import picture_file, write_rows


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "deep/c.png", "deep/er/d.wav", ".hidden/e.png", "deep/.f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture_file(1))
    (tmp_path / "deep" / "c.txt").write_text("a red circle\n")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def test_folders_in_a_folder_are_read_too_and_what_is_hidden_is_not(home):
    rows = list(read_pictures(home))
    assert [(row.id, row.prompt) for row in rows] == [
        ("a.jpg", ""),
        ("b.png", ""),
        ("deep/c.png", "a red circle"),
        ("deep/er/d.wav", ""),
    ]
    assert [row.prompt for row in read_pictures(home, "two dogs")] == [
        "two dogs",
        "two dogs",
        "a red circle",
        "two dogs",
    ]


def test_records_in_a_folder_of_bare_files_are_not_read_without_their_prompts(home):
    write_rows(home / "deep" / "metadata.jsonl", [{"prompt": "a red circle", "file_name": "c.png"}])
    with pytest.raises(DataError, match=r"deep/metadata\.jsonl: records among bare files; give .*deep by itself"):
        list(read_pictures(home))
    assert [row.prompt for row in read_pictures(home / "deep")] == ["a red circle"]


def test_patterns(home, monkeypatch):
    assert [row.id for row in read_pictures(home / "*.png")] == ["b.png"]
    assert [row.id for row in read_pictures(home / "**" / "*.png")] == ["b.png", "deep/c.png"]
    monkeypatch.chdir(home)
    assert [(row.id, row.file) for row in read_pictures(Path("deep/*.png"))] == [("c.png", Path("deep/c.png"))]
    (home / "x[1].png").write_bytes(picture_file(1))
    assert is_pattern(Path("*.png")) and not is_pattern(Path("x[1].png"))  # a file with such a name is that file
    with pytest.raises(DataError, match="no pictures in it"):
        list(read_pictures(Path("*.bmp")))


def test_lines_are_paths_or_records(home, tmp_path_factory):
    file = tmp_path_factory.mktemp("spool") / "input.jsonl"
    record = {"id": "r", "prompt": "p", "file_name": "b.png", "reference": "a.jpg", "note": "b.png"}
    pair = {"chosen": "a.jpg", "rejected": "b.png"}
    save_lines(["deep/c.png\n", "\n", json.dumps(record), json.dumps(pair)], home, file)
    rows = list(read_pictures(file))
    assert [(row.id, row.prompt) for row in rows] == [
        ("deep/c.png", "a red circle"),
        ("r", "p"),
        ("row-2-chosen", ""),
        ("row-2-rejected", ""),
    ]
    assert [row.file for row in rows] == [home / name for name in ("deep/c.png", "b.png", "a.jpg", "b.png")]
    assert rows[1].reference == home / "a.jpg" and rows[1].columns["note"] == "b.png"


@pytest.mark.parametrize(
    ("lines", "says"),
    [([], "standard input: nothing in it"), (["a.png", "{broken"], "standard input, line 2: not JSON")],
)
def test_lines_that_are_neither(tmp_path, lines, says):
    with pytest.raises(DataError, match=says):
        save_lines(lines, tmp_path, tmp_path / "input.jsonl")
