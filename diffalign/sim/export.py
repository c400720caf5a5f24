"""Shapes as files that viewers open."""

from __future__ import annotations

from diffalign.exceptions import MissingExtraError
from diffalign.sim.solid import Shape
from diffalign.sim.voxels import Voxels


def glb_of(shape: Shape) -> bytes:
    """A GLB file of a shape, y up as the format has it; `read_mesh` gives the same shape back.

    Raises:
        MissingExtraError: trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError("writing meshes needs trimesh: pip install 'diffalign[sim]'") from None
    mesh = shape.surface() if isinstance(shape, Voxels) else shape
    x, y, z = mesh.vertices.T
    turned = trimesh.Trimesh(vertices=[*zip(x, z, -y, strict=True)], faces=mesh.faces, process=False)
    content = turned.export(file_type="glb")
    assert isinstance(content, bytes)
    return content
