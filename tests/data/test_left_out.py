"""What is said of the files of a folder that are no media."""

from __future__ import annotations

import pytest

from diffalign.data.picture_rows import left_out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.gltf", "a.bin", "b.obj", "b.mtl"], ""),  # they belong to meshes
        (["a.png", "a.bin"], "1 file of other kinds (.bin)"),
        (["a.gltf", "a.bin", "notes.pdf"], "1 file of other kinds (.pdf)"),
    ],
)
def test_what_belongs_to_meshes_is_not_left_out(tmp_path, names, said):
    for name in names:
        (tmp_path / name).touch()
    assert left_out(tmp_path) == said
