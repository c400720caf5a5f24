"""What glTF files may hold that would be read wrongly or at any price: each has its reason, at once."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import pytest

from diffalign.exceptions import DataError
from diffalign.sim import read_mesh, solid_of
from diffalign.sim.gltf import check_gltf
from tests.sim.damage import glb, gltf, gltf_document
from tests.sim.solids import standing_box

BARE: dict[str, Any] = {
    "accessors": [
        {"componentType": 5126, "count": 8, "type": "VEC3"},
        {"componentType": 5125, "count": 36, "type": "SCALAR"},
    ]
}
DRACO: dict[str, Any] = {
    "attributes": {"POSITION": 0},
    "indices": 1,
    "extensions": {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}},
}
PLAIN: dict[str, Any] = {"attributes": {"POSITION": 0}, "indices": 1}


def with_changes(**changes: Any) -> dict[str, Any]:
    return gltf_document(*standing_box(1, 1, 1))[0] | changes


def accessor(place: int, **more: Any) -> list[dict[str, Any]]:
    found = [dict(each) for each in with_changes()["accessors"]]
    found[place] |= more
    return found


def two_meshes() -> dict[str, Any]:
    """A plain part and a compressed one."""
    return with_changes(
        accessors=[*with_changes()["accessors"], *BARE["accessors"]],
        meshes=[{"primitives": [PLAIN]}, {"primitives": [DRACO | {"attributes": {"POSITION": 2}, "indices": 3}]}],
        nodes=[{"children": [1, 2]}, {"mesh": 0}, {"mesh": 1}],
        extensionsUsed=["KHR_draco_mesh_compression"],
    )


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (with_changes(extensionsRequired=["KHR_draco_mesh_compression"]), "is Draco-compressed; decompress it"),
        (with_changes(**BARE, meshes=[{"primitives": [DRACO]}]), "is Draco-compressed; decompress it"),
        (two_meshes(), "is Draco-compressed; decompress it"),
        (with_changes(extensionsRequired=["EXT_meshopt_compression"]), "is compressed by meshopt; decompress it"),
        (
            with_changes(
                bufferViews=[
                    each | {"extensions": {"EXT_meshopt_compression": {}}, "buffer": 1}
                    for each in with_changes()["bufferViews"]
                ],
                buffers=[*with_changes()["buffers"], {"byteLength": 9, "extensions": {"EXT_meshopt_compression": {}}}],
            ),
            "is compressed by meshopt",
        ),
        (with_changes(extensionsRequired=["VENDOR_other_shape"]), "needs the extension VENDOR_other_shape, which is not"),
        (
            with_changes(nodes=[{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {}}}]),
            "repeats parts by EXT_mesh_gpu_instancing",
        ),
        (with_changes(**BARE), "tells of 8 positions and holds none"),
        (with_changes(accessors=accessor(0, sparse={"count": 1})), "positions as a sparse accessor"),
        (with_changes(accessors=accessor(0, componentType=5122, normalized=True)), "as normalised integers"),
        (with_changes(meshes=[{"primitives": [PLAIN | {"mode": 6}]}]), "as triangle fans"),
        (with_changes(accessors=accessor(1, count=60_000_000)), "the mesh has 20000000 faces, more than 5000000"),
        (
            with_changes(accessors=accessor(1, count=1_800_000), meshes=[{"primitives": [PLAIN] * 10}]),
            "the mesh has 6000000 faces, more than 5000000",
        ),
        (
            with_changes(accessors=[*accessor(0), {"componentType": 5126, "count": 10**9, "type": "VEC3"}]),
            r"accessors tell of 12\.0 GB, more than 1\.1",
        ),
    ],
    ids=[
        "Draco required", "Draco used", "Draco in a part", "meshopt required", "meshopt used", "another required",
        "instances", "no data", "sparse", "normalised", "fans", "many faces", "one part many times", "zeros",
    ],
)  # fmt: skip
def test_what_is_not_read_has_a_reason(document, told, tmp_path):
    file = tmp_path / "a.glb"
    file.write_bytes(glb(document, gltf_document(*standing_box(1, 1, 1))[1]))
    before = time.process_time()
    with pytest.raises(DataError, match=told):
        check_gltf(file)  # before the library has it
    assert time.process_time() - before < 1
    with pytest.raises(DataError, match=rf"a\.glb: .*{told}"):
        read_mesh(file)


def test_a_text_that_is_called_glb_does_not_begin_as_one(tmp_path):
    (tmp_path / "a.glb").write_text("a note of some length, and no mesh at all\n")
    with pytest.raises(DataError, match=r"a\.glb: does not begin as a GLB file does"):
        read_mesh(tmp_path / "a.glb")


def test_what_does_not_change_the_shape_is_read(tmp_path):
    """Extensions of materials, and compression beside which the plain numbers stand."""
    document = with_changes(
        extensionsRequired=["KHR_materials_unlit", "KHR_texture_transform"],
        extensionsUsed=["KHR_draco_mesh_compression"],
        meshes=[{"primitives": [DRACO]}],
    )
    file = tmp_path / "a.gltf"
    file.write_bytes(gltf(document, gltf_document(*standing_box(1, 1, 1))[1]))
    assert solid_of(read_mesh(file)).volume == pytest.approx(1)


def test_places_of_one_part_count_before_they_are_made(tmp_path):
    """A part of 120,000 faces stands in 100 places: a few megabytes, and 12 million faces."""
    vertices, faces = standing_box(1, 1, 1)
    document, buffer = gltf_document(vertices, faces.repeat(10_000, axis=0))
    file = tmp_path / "a.glb"
    nodes = [{"mesh": 0, "translation": [2 * place, 0, 0]} for place in range(100)]
    file.write_bytes(glb(document | {"nodes": nodes, "scenes": [{"nodes": list(range(100))}]}, buffer))
    check_gltf(file)
    with pytest.raises(DataError, match="the mesh has 12000000 faces, more than 5000000"):
        read_mesh(file)


def test_a_damaged_text_does_not_become_the_file_that_the_library_looks_for(tmp_path):
    document, buffer = gltf_document(*standing_box(1, 1, 1))
    (tmp_path / "model.gltf").write_bytes(gltf(document, buffer))
    file = tmp_path / "a.gltf"
    file.write_bytes(gltf(document, buffer)[:-9])
    with pytest.raises(DataError, match=r"a\.gltf: is not JSON that can be read, as glTF is"):
        read_mesh(file)


def test_a_buffer_that_is_a_pipe_is_not_waited_for(tmp_path):
    document, buffer = gltf_document(*standing_box(1, 1, 1))
    os.mkfifo(tmp_path / "a.bin")
    file = tmp_path / "a.gltf"
    file.write_text(json.dumps(document | {"buffers": [{"byteLength": len(buffer), "uri": "a.bin"}]}))
    with pytest.raises(DataError, match=r"needs the file a\.bin, which is no file"):
        read_mesh(file)


def test_a_buffer_in_the_text_is_no_file(tmp_path):
    document, buffer = gltf_document(*standing_box(1, 1, 1))
    uri = "data:application/octet-stream;base64," + base64.b64encode(buffer).decode()
    file = tmp_path / "a.glb"
    file.write_bytes(glb(document | {"buffers": [{"byteLength": len(buffer), "uri": uri}]}, b""))
    check_gltf(file)
    assert solid_of(read_mesh(file)).volume == pytest.approx(1)
