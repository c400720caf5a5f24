"""Files of meshes: GLB, glTF, OBJ, STL, PLY and OFF, read by trimesh; whatever is wrong with one is one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.sim.gltf import MOST_BYTES, check_gltf
from diffalign.sim.mesh import MOST_FACES, Mesh, Up

MESHES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
_UP: dict[str, Up] = {".glb": "y", ".gltf": "y"}  # by their specification; the others say nothing, and z is usual
_HEADER = 4096  # bytes of a file's start and end that are looked at
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
        if not file.is_file():  # a pipe would be waited for
            raise DataError(f"{file}: is no file")
        with file.open("rb") as stream:
            start = stream.read(_HEADER)
            stream.seek(max(0, size - _HEADER))
            end = stream.read()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    if not size:
        raise DataError(f"{file}: is empty")
    if size > MOST_BYTES:
        raise DataError(f"{file}: has {size / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.1f}; simplify it first")
    found = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), ending)
    if found != ending and not (found == ".stl" and ending == ".off"):
        raise DataError(f"{file}: its name says {ending}, its content {found}; rename it")
    try:
        _check_whole(ending, size, start, end)
        if ending in _UP:
            check_gltf(file)
        vertices, faces = _content(file, ending)
        told = _told_faces(ending, start)
        if len(faces) < told:
            raise DataError(f"tells of {told} faces and holds {len(faces)}: it is cut off or damaged")
        return Mesh.of(vertices, faces, up=_UP.get(ending, "z") if up == "auto" else up)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None


def _check_whole(ending: str, size: int, start: bytes, end: bytes) -> None:
    """What the library would not see, or would not say."""
    if ending == ".gltf" and not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise DataError("is not JSON, as glTF is")
    if ending != ".stl":
        return
    if start.startswith(b"solid") and b"\0" not in start:
        if b"endsolid" not in end:
            raise DataError("has no endsolid: it is cut off or damaged")
        return
    count = int.from_bytes(start[80:84], "little")
    if size < 84 or size != 84 + 50 * count:
        told = f"the {count} triangles that it tells of" if size >= 84 else "a header"
        raise DataError(f"its {size} bytes do not fit {told}: it is cut off or damaged")


def _told_faces(ending: str, start: bytes) -> int:
    """How many faces the header tells of, where the format has one and a file may end early without being noticed."""
    pattern = {".ply": rb"element\s+face\s+(\d+)", ".off": rb"\AOFF\s+(?:#[^\n]*\s+)*\d+\s+(\d+)"}.get(ending)
    found = re.search(pattern, start) if pattern else None
    return int(found[1]) if found else 0


def _content(file: Path, ending: str) -> tuple[Any, Any]:
    """Vertices and faces, with what trimesh raises made one sentence."""
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError("reading meshes needs trimesh: pip install 'diffalign[sim]'") from None
    try:
        with np.errstate(all="ignore"):  # values that are not finite get their sentence below
            scene = trimesh.load_scene(file, file_type=ending[1:], process=False, skip_materials=True)
            named = [scene.graph[node][1] for node in scene.graph.nodes_geometry]  # one part may stand in many places
            count = sum(len(getattr(scene.geometry[name], "faces", ())) for name in named)
            if count > MOST_FACES:
                raise DataError(f"the mesh has {count} faces, more than {MOST_FACES}; simplify it first")
            parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
        if not count or not parts:
            kinds = sorted({type(part).__name__ for part in scene.geometry.values()})
            others = [kind for kind in kinds if kind != "Trimesh"]
            raise DataError(f"holds no faces, but {', '.join(others)}" if others else "holds no faces")
        offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
        faces = [np.asarray(part.faces) + offset for part, offset in zip(parts, offsets, strict=False)]
        return np.concatenate([np.asarray(part.vertices) for part in parts]), np.concatenate(faces)
    except DataError:
        raise
    except MemoryError:
        raise DataError("memory does not hold what it says it contains") from None
    except FileNotFoundError as error:
        missing = error.args[0] if len(error.args) == 1 else error.filename
        raise DataError(f"needs the file {missing}, which is not there") from None
    except Exception as error:  # on damaged files the library raises nearly anything
        told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"is damaged, or not what its name says ({type(error).__name__}: {told})") from None
