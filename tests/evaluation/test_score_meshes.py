"""Scores of meshes: of all that is read, of which the named file may be a part, and of what its ending makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diffalign.cli import app
from diffalign.evaluation import score_records
from diffalign.exceptions import DataError
from diffalign.rewards import load_reward
from tests.sim.damage import gltf_document, written
from tests.sim.solids import l_shape


def put(folder: Path, arm: float) -> Path:
    """An L with an arm of that length, as a text and a buffer beside it; the texts are the same."""
    vertices, faces = l_shape(arm)
    document, buffer = gltf_document(vertices @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]], faces)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "scene.gltf").write_text(
        json.dumps(document | {"buffers": [{"byteLength": len(buffer), "uri": "scene.bin"}]})
    )
    (folder / "scene.bin").write_bytes(buffer)
    return folder


def scored(home: Path, out: Path) -> tuple[int, dict[str, Any]]:
    """How many were scored anew, and the margins by file."""
    done = score_records(home, out, [load_reward("stability", form="margin")])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return done.scored, {row["id"]: row["stability"] for row in rows}


def test_the_same_text_with_other_buffers_is_another_shape(tmp_path):
    home = tmp_path / "shapes"
    for name, arm in (("a", 0.6), ("b", 0.9)):
        put(home / name, arm)
    new, margins = scored(home, tmp_path / "s.jsonl")
    assert new == 2 and margins["a/scene.gltf"] > 0 > margins["b/scene.gltf"]
    assert scored(home, tmp_path / "s.jsonl") == (0, margins)
    put(home / "a", 0.95)
    new, after = scored(home, tmp_path / "s.jsonl")
    assert new == 1 and after["a/scene.gltf"] < after["b/scene.gltf"] == margins["b/scene.gltf"]
    put(home / "b", 0.95)
    new, after = scored(home, tmp_path / "s.jsonl")
    assert new == 0 and after["a/scene.gltf"] == after["b/scene.gltf"]  # known by what it holds


def test_a_buffer_that_comes_later_counts(tmp_path):
    home = put(tmp_path / "shapes", 0.6)
    (home / "scene.bin").rename(tmp_path / "kept.bin")
    assert scored(home, tmp_path / "s.jsonl")[1] == {"scene.gltf": None}
    (tmp_path / "kept.bin").rename(home / "scene.bin")
    assert scored(home, tmp_path / "s.jsonl")[1]["scene.gltf"] > 0


def test_the_same_bytes_are_what_their_ending_says(tmp_path):
    home = tmp_path / "shapes"
    home.mkdir()
    for name in ("l.STL", "l.stl", "l.obj"):
        (home / name).write_bytes(written(l_shape(0.6), "stl"))
    _, margins = scored(home, tmp_path / "s.jsonl")
    assert margins["l.STL"] == margins["l.stl"] > 0 and margins["l.obj"] is None


def test_a_folder_without_meshes_says_that_it_looked_for_them(tmp_path):
    (tmp_path / "shapes").mkdir()
    with pytest.raises(DataError, match="no pictures in it, nor sounds, videos or meshes"):
        scored(tmp_path / "shapes", tmp_path / "s.jsonl")
    told = " ".join(CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200"}).output.split())
    assert (
        "Score pictures, sounds, videos or meshes" in told and "a folder of pictures, sounds, videos or meshes" in told
    )
