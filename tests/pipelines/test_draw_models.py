"""Several models into one folder, and several processes: the same folder as one process makes, wherever one was cut off."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffalign.data.part_files import PartFiles
from diffalign.exceptions import ConfigError
from diffalign.pipelines import DrawingModel, Drawn, draw_models, draw_pictures, drawings, picture_folder
from diffalign.pipelines.picture_folder import PictureFolder
from tests.pipelines.shades import shades

TEXTS = ["a red circle", "a blue square", "кот ✓"]


def models(*offsets: int, batch: int = 2) -> list[DrawingModel]:
    return [
        DrawingModel(lambda offset=offset: shades(offset, batch), source=f"model {offset}", name=f"m{offset}")
        for offset in offsets
    ]


def draw(out: Path, chosen: Any = None, **options: Any) -> Drawn:
    return draw_models(models(0, 100) if chosen is None else chosen, TEXTS, out, count=2, **options)


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").split("\n") if line]


def shade(path: Path) -> int:
    with Image.open(path) as picture:
        return int(picture.getpixel((0, 0))[0])  # type: ignore[index]


def test_every_model_draws_every_prompt_with_the_same_seeds(tmp_path):
    done = draw(tmp_path, seed=5)
    rows = records(tmp_path)
    assert rows == done.rows and done.complete
    assert [(row["id"], row["source"]) for row in rows[:4]] == [
        ("000000-m0", "model 0"), ("000000-m100", "model 100"), ("000001-m0", "model 0"), ("000001-m100", "model 100"),
    ]  # fmt: skip
    for row in rows:
        number, _, name = row["id"].partition("-m")
        assert row["seed"] == 5 + int(number) and row["prompt"] == TEXTS[int(number) // 2]
        assert shade(tmp_path / row["file_name"]) == row["seed"] + int(name)


def test_another_model_is_added_and_nothing_drawn_again(tmp_path):
    draw(tmp_path, models(0, 100))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    done = draw(tmp_path, models(7, 0, 100))
    assert (done.drawn, done.there) == (6, 12)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(records(tmp_path)) == 18


def test_one_model_at_a_time_is_in_memory(tmp_path):
    loaded: list[str] = []

    def load(name: str) -> Any:
        assert not (tmp_path / "metadata.jsonl").exists() or f"-{name}" not in (tmp_path / "metadata.jsonl").read_text()
        loaded.append(name)
        return shades()

    draw(tmp_path, [DrawingModel(lambda name=name: load(name), name=name) for name in ("a", "b")])
    assert loaded == ["a", "b"]
    with pytest.raises(ConfigError, match="each needs a name of its own"):
        draw(tmp_path, models(0, 0))


@pytest.mark.parametrize("order", list(permutations(range(3)))[::2])
def test_processes_that_run_one_after_the_other_make_what_one_makes(tmp_path, order):
    draw(tmp_path / "whole")
    counts = []
    for place, rank in enumerate(order):
        done = draw(tmp_path / "shared", rank=rank, world=3)
        counts.append(done.drawn)
        assert done.complete == (place == 2) == (tmp_path / "shared" / "metadata.jsonl").exists()
    assert sum(counts) == 12 and max(counts) == 4
    assert content(tmp_path / "shared") == content(tmp_path / "whole")


@pytest.mark.parametrize("after", [2, 1])
def test_cut_off_process_is_gone_on_with_also_by_another_number_of_them(tmp_path, monkeypatch, after):
    draw(tmp_path / "whole")
    original, saved = drawings.save_picture, []

    def save(picture: Any, path: Path) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        original(picture, path)

    monkeypatch.setattr(drawings, "save_picture", save)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "cut", rank=0, world=2)
    monkeypatch.setattr(drawings, "save_picture", original)
    drawn = [draw(tmp_path / "cut", rank=rank, world=after).drawn for rank in range(after)]
    assert sum(drawn) == 12 - 3
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.parametrize("first", ["parts", "listing"])
def test_the_others_joining_all_parts_while_one_looks_is_no_picture_lost(tmp_path, monkeypatch, first):
    rows = [dict.fromkeys(picture_folder._OURS, 1) | {"id": name, "file_name": name} for name in ("a", "b")]
    one, other = (PictureFolder(tmp_path, rank, 2) for rank in range(2))
    for folder, row in ((one, rows[0]), (other, rows[1])):
        (tmp_path / str(row["file_name"])).touch()
        folder.add(row)
    read = {"parts": PartFiles.read, "listing": picture_folder._read}

    def then_they_finish(*arguments: Any) -> Any:
        found = read[first](*arguments)
        found = list(found) if first == "parts" else found
        monkeypatch.undo()
        assert other.finish(rows)
        return found

    where = (PartFiles, "read") if first == "parts" else (picture_folder, "_read")
    monkeypatch.setattr(*where, then_they_finish)
    assert one.finish(rows)
    assert records(tmp_path) == rows and not list(tmp_path.glob(".*"))


def test_what_one_process_left_is_gone_on_with_by_several(tmp_path):
    draw(tmp_path / "whole")
    draw(tmp_path / "more", models(0))
    drawn = [draw(tmp_path / "more", rank=rank, world=2).drawn for rank in range(2)]
    assert sum(drawn) == 6
    assert content(tmp_path / "more") == content(tmp_path / "whole")


def test_several_processes_do_not_draw_over_other_pictures_and_one_may(tmp_path):
    draw_pictures(shades(), TEXTS, tmp_path, seed=3)
    before = content(tmp_path)
    for options in ({"seed": 4}, {"count": 1, "seed": 0}):
        with pytest.raises(ConfigError, match=r"000000.png has seed: 3"):
            draw_models([DrawingModel(shades)], TEXTS, tmp_path, rank=1, world=2, **options)
    assert content(tmp_path) == before
    with pytest.raises(ConfigError, match="overwrite: is for one process"):
        draw_models([DrawingModel(shades)], TEXTS, tmp_path, seed=4, world=2, overwrite=True)
    draw_models([DrawingModel(shades)], TEXTS, tmp_path, seed=4, overwrite=True)
    assert [row["seed"] for row in records(tmp_path)] == [4, 5, 6]


def test_parts_of_other_settings_go_before_one_process_draws_over_their_pictures(tmp_path, monkeypatch):
    draw(tmp_path, rank=0, world=2)
    monkeypatch.setattr(drawings, "save_picture", lambda picture, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, seed=1, overwrite=True)
    monkeypatch.undo()
    draw(
        tmp_path, overwrite=True
    )  # as at first: what the parts said of the first settings was forgotten, as it might have been drawn over
    assert all(shade(tmp_path / row["file_name"]) == row["seed"] + int(row["id"][8:]) for row in records(tmp_path))
    assert not list(tmp_path.glob(".*"))
