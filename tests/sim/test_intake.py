"""Files of meshes: what is read from good ones."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from diffalign.exceptions import DataError
from diffalign.sim import MESHES, read_mesh, simulate_stability, solid_of
from tests.sim.damage import FORMATS, glb, gltf_document, written
from tests.sim.solids import l_shape, standing_box

TO_Y = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # the rotation of a z-up shape to y up: (x, y, z) -> (x, z, -y)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_shape(kind, tmp_path):
    vertices, faces = l_shape(0.6)
    y_up = kind.startswith("gl")
    file = tmp_path / f"l.{kind}"
    file.write_bytes(written((vertices @ TO_Y.T if y_up else vertices, faces), kind))
    found = solid_of(read_mesh(file))
    assert (found.mass, found.volume) == ("exact", pytest.approx(0.056, rel=1e-6))
    np.testing.assert_allclose(found.centre, [0.6 / 7, 0, 0.6143], atol=1e-4)


def test_the_endings_are_those_that_are_tried():
    assert {f".{kind.rpartition('.')[2]}" for kind in FORMATS} == set(MESHES)


def test_an_axis_can_be_told(tmp_path):
    file = tmp_path / "L.OBJ"
    file.write_bytes(written((l_shape(0.9)[0] @ TO_Y.T, l_shape(0.9)[1]), "obj"))
    assert not simulate_stability(read_mesh(file, up="y")).stable
    assert simulate_stability(read_mesh(file)).stable


def test_parts_of_a_scene_are_in_their_places(tmp_path):
    """A T of one box that three nodes use: as a foot, as a stem, and turned and scaled as a beam, below a moved parent."""
    vertices, faces = standing_box(1, 1, 1)
    half = math.sqrt(0.5)
    document, buffer = gltf_document(vertices @ TO_Y.T, faces)
    document["nodes"] = [
        {"children": [1, 2, 3], "translation": [10, 20, 30]},
        {"mesh": 0, "scale": [1, 0.5, 1]},
        {"mesh": 0, "scale": [0.2, 2, 0.2], "translation": [0, 0.5, 0]},
        {"mesh": 0, "scale": [0.4, 3, 0.5], "translation": [1.5, 2.7, 0], "rotation": [0, 0, half, half]},
    ]
    file = tmp_path / "t.glb"
    file.write_bytes(glb(document, buffer))
    mesh = read_mesh(file)
    found = solid_of(mesh)
    assert (len(mesh.vertices), mesh.pieces, found.mass) == (24, 1, "exact")  # they touch, and share no vertex
    assert found.volume == pytest.approx(0.5 + 0.08 + 0.6, rel=1e-6)
    height = (0.5 * 0.25 + 0.08 * 1.5 + 0.6 * 2.7) / 1.18
    np.testing.assert_allclose(found.centre, [10, -30, 20 + height], atol=1e-5)


def test_a_mirrored_part_is_no_hole(tmp_path):
    document, buffer = gltf_document(standing_box(1, 1, 1)[0] @ TO_Y.T, standing_box(1, 1, 1)[1])
    document["nodes"] = [{"children": [1, 2]}, {"mesh": 0}, {"mesh": 0, "scale": [-1, 1, 1], "translation": [3, 0, 0]}]
    document["scenes"] = [{"nodes": [0]}]
    file = tmp_path / "two.glb"
    file.write_bytes(glb(document, buffer))
    assert solid_of(read_mesh(file)).volume == pytest.approx(2)


def test_a_buffer_beside_the_file_is_read(tmp_path):
    document, buffer = gltf_document(*standing_box(1, 1, 1))
    document["buffers"] = [{"byteLength": len(buffer), "uri": "box.bin"}]
    file = tmp_path / "box.gltf"
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"box\.gltf: needs the file box\.bin, which is not there"):
        read_mesh(file)
    (tmp_path / "box.bin").write_bytes(buffer)
    assert solid_of(read_mesh(file)).volume == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.glb", "No such file"),
        ("folder.glb", "is no file"),
        ("pipe.glb", "is no file"),
        ("model.fbx", r"no mesh by its ending; known are \.glb, \.gltf, \.obj, \.off, \.ply, \.stl"),
        ("empty.ply", "is empty"),
        ("really_ply.glb", r"its name says \.glb, its content \.ply; rename it"),
        ("really_glb.obj", r"its name says \.obj, its content \.glb; rename it"),
        ("short.stl", "734 bytes do not fit the 12 triangles that it tells of: it is cut off or damaged"),
        ("short_ascii.stl", "no endsolid: it is cut off"),
        ("short.off", "tells of 12 faces and holds 7: it is cut off"),
        ("short_ascii.ply", "tells of 12 faces and holds 7: it is cut off"),
        ("short.gltf", "is not JSON that can be read"),
        ("text.gltf", "is not JSON"),
        ("points.obj", "holds no faces, but PointCloud"),
    ],
)
def test_the_reason_names_the_file_and_what_to_do(name, told, tmp_path):
    def good(kind: str) -> bytes:
        return written(standing_box(1, 1, 1), kind)

    contents = {
        "empty.ply": b"",
        "really_ply.glb": good("ply"),
        "really_glb.obj": good("glb"),
        "short.stl": good("stl")[:-(50)] + b"",
        "short_ascii.stl": good("ascii.stl")[:-60],
        "short.off": b"\n".join(good("off").split(b"\n")[:-6]),
        "short_ascii.ply": b"\n".join(good("ascii.ply").split(b"\n")[:-6]),
        "short.gltf": good("gltf")[:-60],
        "text.gltf": b"A cube.",
        "points.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
    }
    file = tmp_path / name
    if name in contents:
        file.write_bytes(contents[name])
    elif name == "folder.glb":
        file.mkdir()
    elif name == "pipe.glb":
        os.mkfifo(file)
    with pytest.raises(DataError, match=f"{name}: .*{told.replace('734', str(684 - 50))}"):
        read_mesh(file)
