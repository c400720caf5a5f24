"""Hundreds of files with something wrong: each has a number or a sentence that names it, and none ends the process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from diffalign.exceptions import DataError
from diffalign.sim import read_mesh, simulate_many, simulate_stability, static_stability
from tests.sim.damage import bad_files
from tests.sim.solids import cone, l_shape, table

PARTS = [l_shape(0.6), table(3), cone(0.3)]


def put_down(folder: Path, seed: int) -> dict[Path, str]:
    found = {}
    for number, (name, (ending, content)) in enumerate(bad_files(PARTS, seed)):
        file = folder / (f"{number}.{ending}" if ending else str(number))
        file.write_bytes(content)
        found[file] = name
    return found


def judge(file: Path) -> str:
    """`number`, or the reason."""
    try:
        mesh = read_mesh(file)
    except DataError as error:
        assert str(error).startswith(f"{file}: ")
        assert "\n" not in str(error)
        return str(error)
    try:
        found = simulate_stability(mesh)
    except DataError as error:
        return str(error)
    assert 0 <= found.tilt <= 180
    assert found.stable == (found.tilt < 20)
    assert math.isfinite(static_stability(mesh).margin)
    return "number"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_each_has_a_number_or_a_reason(seed, tmp_path, monkeypatch, capfd):
    files = put_down(tmp_path, seed)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    told = {files[file]: judge(file) for file in files}
    assert len(files) >= 500
    assert 80 < sum(reason == "number" for reason in told.values()) < 200  # much of it is only strange
    assert told["obj, inside out"] == told["stl, every face twice"] == told["glb, mirrored"] == "number"
    assert "cut off" in told["ascii.ply, 1000000 of face"]
    for kind in ("glb", "gltf", "obj", "off", "stl", "ascii.stl", "ply", "ascii.ply"):
        assert "not finite" in told[f"{kind}, a coordinate of nan"]
        assert "flat" in told[f"{kind}, flat"]
        assert "empty" in told[f"{kind}, empty"]
    assert set(tmp_path.iterdir()) == before
    assert "Traceback" not in "".join(capfd.readouterr())


def test_through_the_pool_the_reasons_are_the_same(tmp_path):
    files = [file for number, file in enumerate(put_down(tmp_path, 3)) if number % 12 == 0]
    alone, together = simulate_many(files, processes=0), simulate_many(files, processes=2)
    assert [each.reason for each in together] == [each.reason for each in alone]
    assert [each.stable for each in together] == [each.stable for each in alone]
    assert all(str(file) in each.reason for file, each in zip(files, together, strict=True) if each.reason)
    assert any(each.reason for each in together)
    assert any(each.stable is not None for each in together)
