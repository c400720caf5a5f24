"""What a glTF document says of its geometry before anything of it is read: files beside it, sizes, and extensions."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffalign.exceptions import DataError
from diffalign.sim.mesh import MOST_FACES

MOST_BYTES = 1 << 30  # of a file, of the files beside it, and of what accessors unfold to
_GLB_HEADER = 20
_SIZES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # bytes of a number, by componentType
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_DRACO = "KHR_draco_mesh_compression"
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_NO_GEOMETRY = (
    "KHR_materials_",
    "KHR_texture_",
    "EXT_texture_",
    "MSFT_texture_",
    "KHR_lights_",
    "EXT_lights_",
    "KHR_xmp",
)
_KNOWN = {
    "KHR_mesh_quantization",
    "KHR_animation_pointer",
    "GODOT_single_root",
    _DRACO,
}  # of those that may be required
_DECOMPRESS = "decompress it first (npx @gltf-transform/cli copy IN.glb OUT.glb)"


def document_of(file: Path) -> dict[str, Any]:
    """The JSON of a .gltf or .glb file.

    Raises:
        DataError: there is none that can be read.
        OSError: nor is the file.
    """
    with file.open("rb") as stream:
        if file.suffix.lower() == ".glb":
            head = stream.read(_GLB_HEADER)
            if head[:4] != b"glTF":
                raise DataError("does not begin as a GLB file does: it is damaged, or not what its name says")
            if head[16:20] != b"JSON":
                raise DataError("has no JSON, as GLB has: it is damaged")
            content = stream.read(int.from_bytes(head[12:16], "little"))
        else:
            content = stream.read()
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise DataError("is not JSON that can be read, as glTF is") from None
    if not isinstance(document, dict):
        raise DataError("is no glTF: its JSON is no object")
    return document


def files_beside(file: Path) -> list[Path]:
    """The files that hold the buffers of a .gltf or .glb file, in its order; those of other folders are not read.

    Raises:
        DataError, OSError: the file cannot be read.
    """
    return _beside(file, document_of(file))


def _beside(file: Path, document: dict[str, Any]) -> list[Path]:
    folder = file.parent.resolve()
    named = [each.get("uri") for each in _records(document, "buffers")]
    found = [folder / name.strip() for name in named if isinstance(name, str) and "base64," not in name]
    return [each for each in found if "\0" not in str(each) and each.resolve().is_relative_to(folder)]


def check_gltf(file: Path) -> None:
    """Refuse what would be read wrongly, in silence, or at a cost that the file does not show.

    Raises:
        DataError: it needs what is not read, or tells of more than it holds, or of too much.
        OSError: it cannot be read.
    """
    document = document_of(file)
    beside = _beside(file, document)
    for each in beside:
        if each.exists() and not each.is_file():
            raise DataError(f"needs the file {each.name}, which is no file")
    size = sum(each.stat().st_size for each in beside if each.exists())
    if size > MOST_BYTES:
        raise DataError(
            f"the files beside it have {size / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.1f}; simplify it first"
        )
    primitives = list(_primitives(document))
    accessors = document.get("accessors")
    accessors = accessors if isinstance(accessors, list) else []
    _check_extensions(document, primitives, accessors)
    faces = corners = 0
    for primitive in primitives:
        points, indices = _geometry(primitive, accessors)
        for name, accessor in (("positions", points), ("faces", indices)):
            _check_readable(name, accessor, _packed(primitive))
        mode, count = primitive.get("mode", _TRIANGLES), _count(points if indices is None else indices)
        if mode == _FAN:
            raise DataError("has faces as triangle fans, which are not read; write them as triangles")
        faces += count // 3 if mode == _TRIANGLES else max(0, count - 2) if mode == _STRIP else 0
        corners += _count(points)
    if faces > MOST_FACES or corners > 3 * MOST_FACES:
        what = f"{faces} faces, more than {MOST_FACES}" if faces > MOST_FACES else f"{corners} vertices"
        raise DataError(f"the mesh has {what}; simplify it first")
    unfolded = sum(_bytes_of(each) for each in _records(document, "accessors"))
    if unfolded > MOST_BYTES:
        raise DataError(
            f"its accessors tell of {unfolded / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.1f}; simplify it first"
        )


def _check_extensions(document: dict[str, Any], primitives: list[dict[str, Any]], accessors: list[Any]) -> None:
    """Whether all that its shape needs is understood."""
    required = document.get("extensionsRequired")
    names = [each for each in required if isinstance(each, str)] if isinstance(required, list) else []
    draco = _DRACO in names or any(
        _DRACO in _packed(each) and any(_bare(accessor) for accessor in _geometry(each, accessors))
        for each in primitives
    )
    if draco and not _decodes_draco():
        raise DataError(f"is Draco-compressed; {_DECOMPRESS}, or install what reads it: pip install DracoPy")
    empty = [
        place
        for place, buffer in enumerate(_records(document, "buffers"))
        if "uri" not in buffer and any(name in _packed(buffer) for name in _MESHOPT)
    ]
    views = [each for each in _records(document, "bufferViews") if any(name in _packed(each) for name in _MESHOPT)]
    if any(name in names for name in _MESHOPT) or any(view.get("buffer") in empty for view in views):
        raise DataError(f"is compressed by meshopt; {_DECOMPRESS}")
    if any("EXT_mesh_gpu_instancing" in _packed(node) for node in _records(document, "nodes")):
        raise DataError("repeats parts by EXT_mesh_gpu_instancing, which is not read; write them as nodes of their own")
    for name in names:
        if name not in _KNOWN and not name.startswith(_NO_GEOMETRY):
            raise DataError(f"needs the extension {name}, which is not read; write the file without it")


def _check_readable(name: str, accessor: dict[str, Any] | None, extensions: dict[str, Any]) -> None:
    """Whether the library reads what the accessor stands for: it takes zeros for what is not plainly there."""
    if accessor is None or (_DRACO in extensions and _decodes_draco()):
        return
    if "sparse" in accessor:
        raise DataError(f"has its {name} as a sparse accessor, which is not read; write it without")
    if _bare(accessor):
        raise DataError(
            f"tells of {_count(accessor)} {'indices' if name == 'faces' else name} and holds none: no bufferView"
        )
    if accessor.get("normalized") is True:
        raise DataError(
            f"has its {name} as normalised integers (KHR_mesh_quantization), which are not read; dequantise it"
        )


def _geometry(primitive: dict[str, Any], accessors: list[Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The accessors of a primitive's positions and indices; None where there is none."""
    attributes = primitive.get("attributes")
    places = (attributes.get("POSITION") if isinstance(attributes, dict) else None, primitive.get("indices"))
    found = [accessors[each] if isinstance(each, int) and 0 <= each < len(accessors) else None for each in places]
    points, indices = (each if isinstance(each, dict) else None for each in found)
    return points, indices


def _bare(accessor: dict[str, Any] | None) -> bool:
    """Whether its numbers are nowhere, so that the format says they are 0."""
    return accessor is not None and "bufferView" not in accessor and "sparse" not in accessor


def _count(accessor: dict[str, Any] | None) -> int:
    count = 0 if accessor is None else accessor.get("count")
    return max(0, int(count)) if isinstance(count, int | float) and math.isfinite(count) else 0


def _bytes_of(accessor: dict[str, Any]) -> int:
    number, kind = accessor.get("componentType"), accessor.get("type")
    size = _SIZES.get(number, 4) if isinstance(number, int) else 4
    return _count(accessor) * size * (_NUMBERS.get(kind, 16) if isinstance(kind, str) else 16)


def _packed(record: dict[str, Any]) -> dict[str, Any]:
    """Its extensions."""
    found = record.get("extensions")
    return found if isinstance(found, dict) else {}


def _primitives(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for mesh in _records(document, "meshes"):
        yield from _records(mesh, "primitives")


def _records(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What stands in a list of a document that may be damaged: its objects."""
    found = document.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _decodes_draco() -> bool:
    return importlib.util.find_spec("DracoPy") is not None
