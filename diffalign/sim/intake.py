"""Files of meshes: GLB, glTF, OBJ, STL, PLY and OFF, read by trimesh; whatever is wrong with one is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.sim.mesh import MOST_FACES, Mesh, Up

MESHES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
_UP: dict[str, Up] = {".glb": "y", ".gltf": "y"}  # by their specification; the others say nothing, and z is usual
_MOST_BYTES = 1 << 30
_MAGIC = {b"glTF": ".glb", b"ply\n": ".ply", b"ply\r": ".ply", b"OFF\n": ".off", b"solid": ".stl"}


def read_mesh(path: Path | str, *, up: Up | Literal["auto"] = "auto") -> Mesh:
    """The mesh of a file, z up: all parts of a scene, each in its place, as one.

    Args:
        path: a file that ends in one of `MESHES`.
        up: the axis that points up in the file; auto: y in GLB and glTF, as their specification says, else z.

    Raises:
        DataError: not such a file, or nothing in it that can be used; names the file.
        MissingExtraError: trimesh is not installed.
    """
    file = Path(path)
    ending = file.suffix.lower()
    if ending not in MESHES:
        raise DataError(f"{file}: is no mesh by its ending; known are {', '.join(MESHES)}")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(5)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    if not size:
        raise DataError(f"{file}: is empty")
    if size > _MOST_BYTES:
        raise DataError(f"{file}: has {size / 1e9:.1f} GB, more than {_MOST_BYTES / 1e9:.1f}; simplify it first")
    found = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), ending)
    if found != ending and not (found == ".stl" and ending == ".off"):
        raise DataError(f"{file}: its name says {ending}, its content {found}; rename it")
    if ending == ".stl" and found != ".stl":
        _check_binary_stl(file, size)
    try:
        vertices, faces = _content(file, ending)
        return Mesh.of(vertices, faces, up=_UP.get(ending, "z") if up == "auto" else up)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _check_binary_stl(file: Path, size: int) -> None:
    with file.open("rb") as stream:
        header = stream.read(84)
    count = int.from_bytes(header[80:84], "little")
    if len(header) < 84 or size != 84 + 50 * count:
        told = f"{count} triangles" if len(header) == 84 else "no header"
        raise DataError(f"{file}: {size} bytes do not fit the {told} that it tells of; it is cut off or damaged")


def _content(file: Path, ending: str) -> tuple[Any, Any]:
    """Vertices and faces, with what trimesh raises made one sentence."""
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError("reading meshes needs trimesh: pip install 'diffalign[sim]'") from None
    try:
        scene = trimesh.load_scene(file, file_type=ending[1:], process=False, skip_materials=True)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
        count = sum(len(part.faces) for part in parts)
        if count > MOST_FACES:
            raise DataError(f"the mesh has {count} faces, more than {MOST_FACES}; simplify it first")
        if not count:
            kinds = sorted({type(part).__name__ for part in scene.geometry.values()})
            raise DataError(f"holds no faces, but {', '.join(kinds)}" if kinds else "holds no faces")
        offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
        faces = [np.asarray(part.faces) + offset for part, offset in zip(parts, offsets, strict=False)]
        return np.concatenate([np.asarray(part.vertices) for part in parts]), np.concatenate(faces)
    except DataError:
        raise
    except MemoryError:
        raise DataError("memory does not hold what it says it contains") from None
    except Exception as error:  # on damaged files the library raises nearly anything
        told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"is damaged, or not what its name says ({type(error).__name__}: {told})") from None
