"""Files of meshes in all formats, and many ways in which such a file can be wrong; seeded."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator

import numpy as np

from tests.sim.solids import Arrays

FORMATS = ("glb", "gltf", "obj", "off", "stl", "ascii.stl", "ply", "ascii.ply")
Written = tuple[str, bytes]  # ending and content


def written(part: Arrays, kind: str) -> bytes:
    """A mesh as a file of one of FORMATS; GLB and glTF keep the numbers as they are, y up or not."""
    return _WRITERS[kind](np.asarray(part[0], dtype=np.float64), np.asarray(part[1], dtype=np.int64))


def gltf_document(vertices: np.ndarray, faces: np.ndarray, **changes: object) -> tuple[dict[str, object], bytes]:
    """A document without its buffer's address, and the buffer."""
    points, indices = vertices.astype("<f4"), faces.astype("<u4")
    buffer = points.tobytes() + indices.tobytes()
    document: dict[str, object] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5125, "count": indices.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": points.nbytes},
            {"buffer": 0, "byteOffset": points.nbytes, "byteLength": indices.nbytes},
        ],
        "buffers": [{"byteLength": len(buffer)}],
    }
    return document | changes, buffer


def glb(document: dict[str, object], buffer: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def gltf(document: dict[str, object], buffer: bytes) -> bytes:
    uri = "data:application/octet-stream;base64," + base64.b64encode(buffer).decode()
    return json.dumps(document | {"buffers": [{"byteLength": len(buffer), "uri": uri}]}).encode()


def _obj(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices]
    return "\n".join([*lines, *(f"f {a} {b} {c}" for a, b, c in faces + 1), ""]).encode()


def _off(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *(f"{x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices)]
    return "\n".join([*lines, *(f"3 {a} {b} {c}" for a, b, c in faces), ""]).encode()


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    found = b"solid-looking header".ljust(80) + struct.pack("<I", len(faces))
    for corners in _corners(vertices, faces):
        found += struct.pack("<12fH", 0, 0, 0, *corners.astype(np.float32).ravel(), 0)
    return found


def _ascii_stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["solid shape"]
    for corners in _corners(vertices, faces):
        lines += ["facet normal 0 0 0", "outer loop", *(f"vertex {x:.9g} {y:.9g} {z:.9g}" for x, y, z in corners)]
        lines += ["endloop", "endfacet"]
    return "\n".join([*lines, "endsolid shape", ""]).encode()


def _ply_header(kind: str, vertices: int, faces: int) -> str:
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    return (
        f"ply\nformat {kind} 1.0\nelement vertex {vertices}\n{properties}element face {faces}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )


def _ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    rows = b"".join(struct.pack("<B3i", 3, *face) for face in np.clip(faces, -(2**31), 2**31 - 1).tolist())
    return (
        _ply_header("binary_little_endian", len(vertices), len(faces)).encode()
        + vertices.astype("<f4").tobytes()
        + rows
    )


def _ascii_ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = [f"{x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices] + [f"3 {a} {b} {c}" for a, b, c in faces]
    return (_ply_header("ascii", len(vertices), len(faces)) + "\n".join([*lines, ""])).encode()


def _corners(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    inside = faces[((faces >= 0) & (faces < len(vertices))).all(axis=1)]  # STL has no indices that could be wrong
    return vertices[inside]


_WRITERS: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {
    "glb": lambda vertices, faces: glb(*gltf_document(vertices, faces)),
    "gltf": lambda vertices, faces: gltf(*gltf_document(vertices, faces)),
    "obj": _obj,
    "off": _off,
    "stl": _stl,
    "ascii.stl": _ascii_stl,
    "ply": _ply,
    "ascii.ply": _ascii_ply,
}


def _bad_arrays(part: Arrays, generator: np.random.Generator) -> Iterator[tuple[str, Arrays]]:
    """A mesh with one thing wrong, or only strange."""
    vertices, faces = part
    chosen = int(generator.integers(len(vertices)))
    for value in (np.nan, np.inf, -np.inf, 1e38, 1e-40):
        spoiled = vertices.copy()
        spoiled[chosen, int(generator.integers(3))] = value
        yield f"a coordinate of {value}", (spoiled, faces)
    yield "all at one place", (vertices * 0 + 1, faces)
    yield "on a line", (vertices * [1, 0, 0], faces)
    yield "flat", (vertices * [1, 1, 0], faces)
    yield "huge", (vertices * 1e37, faces)
    yield "tiny", (vertices * 1e-37, faces)
    yield "far away", (vertices + 1e9, faces)
    yield "no faces", (vertices, faces[:0])
    yield "no vertices", (vertices[:0], faces)
    yield "nothing", (vertices[:0], faces[:0])
    yield "a place too high", (vertices, np.concatenate([faces, [[0, 1, len(vertices)]]]))
    yield "a place far too high", (vertices, np.concatenate([faces, [[0, 1, 2**31 - 1]]]))
    yield "a place below 0", (vertices, np.concatenate([faces, [[0, 1, -5]]]))
    yield "faces of one vertex", (vertices, faces[:, [0, 0, 0]])
    yield "faces of two vertices", (vertices, faces[:, [0, 1, 0]])
    yield "every face twice", (vertices, np.concatenate([faces, faces]))
    yield "every face both ways", (vertices, np.concatenate([faces, faces[:, ::-1]]))
    yield "inside out", (vertices, faces[:, ::-1])
    yield "a fin", (np.concatenate([vertices, [[9.0, 9.0, 9.0]]]), np.concatenate([faces, [[0, 1, len(vertices)]]]))
    yield "open", (vertices, faces[: len(faces) // 2])
    yield "one face", (vertices, faces[:1])
    yield "wound at random", (vertices, np.where(generator.random((len(faces), 1)) < 0.5, faces, faces[:, ::-1]))
    yield "faces at random", (vertices, generator.integers(0, len(vertices), faces.shape))
    yield "vertices at random", (generator.normal(size=vertices.shape), faces)


def _bad_bytes(good: bytes, generator: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """A file that lost or changed bytes on its way."""
    for _ in range(4):
        yield "cut off", good[: int(generator.integers(1, len(good)))]
    for share in (0.001, 0.01, 0.1):
        spoiled = np.frombuffer(good, dtype=np.uint8).copy()
        places = generator.integers(0, len(good), max(1, int(share * len(good))))
        spoiled[places] = generator.integers(0, 256, len(places))
        yield f"{share} of its bytes changed", spoiled.tobytes()
    spoiled = np.frombuffer(good, dtype=np.uint8).copy()
    spoiled[:200] ^= generator.integers(0, 256, len(spoiled[:200])).astype(np.uint8)
    yield "another start", spoiled.tobytes()
    yield "zeros in the middle", good[: len(good) // 3] + bytes(len(good) // 3) + good[2 * len(good) // 3 :]
    yield "twice in one file", good + good
    yield "a tail", good + generator.bytes(100)
    yield "no start", good[int(generator.integers(1, 60)) :]


def _bad_alone(generator: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """What is no mesh at all."""
    yield "empty", b""
    yield "one byte", b"\0"
    yield "line ends", b"\r\n" * 50
    yield "text", "Ein Würfel, 1 m.\n".encode() * 20
    yield "zeros", bytes(2000)
    yield "bytes at random", generator.bytes(2000)
    yield "a picture", b"\x89PNG\r\n\x1a\n" + generator.bytes(500)
    yield "an archive", b"PK\x03\x04" + generator.bytes(500)
    yield "JSON", b'{"a": [1, 2, {"b": null}]}'
    yield "brackets", b"[" * 100_000


def _counts(good: bytes, kind: str) -> Iterator[tuple[str, bytes]]:
    """Headers that tell of more, or less, than there is."""
    for count in (0, 1, 7, 10**6, 2**31 - 1, 2**32 - 1, 10**12, 10**30, -1):
        text = str(count).encode()
        if kind == "stl" and 0 <= count < 2**32:
            yield f"{count} triangles", good[:80] + struct.pack("<I", count) + good[84:]
        elif kind in ("ply", "ascii.ply"):
            for element in (b"vertex", b"face"):
                start = good.index(b"element " + element) + 9 + len(element)
                yield f"{count} of {element.decode()}", good[:start] + text + good[good.index(b"\n", start) :]
        elif kind == "off":
            _, numbers, rest = good.split(b"\n", 2)
            vertices, faces, _ = numbers.split()
            yield f"{count} vertices", b"\n".join([b"OFF", text + b" " + faces + b" 0", rest])
            yield f"{count} faces", b"\n".join([b"OFF", vertices + b" " + text + b" 0", rest])


def _documents(part: Arrays) -> Iterator[tuple[str, dict[str, object], bytes]]:
    """glTF documents whose parts do not fit together."""
    good, buffer = gltf_document(*part)
    many = [{"children": [number + 1, number + 1]} for number in range(40)]
    changes: dict[str, dict[str, object]] = {
        "no scenes": {"scenes": []},
        "no nodes": {"nodes": []},
        "no meshes": {"meshes": []},
        "no accessors": {"accessors": []},
        "no views": {"bufferViews": []},
        "no such mesh": {"nodes": [{"mesh": 7}]},
        "no such scene": {"scene": 9},
        "no such node": {"scenes": [{"nodes": [44]}]},
        "its own child": {"nodes": [{"mesh": 0, "children": [0]}]},
        "a ring of nodes": {"nodes": [{"mesh": 0, "children": [1]}, {"children": [0]}]},
        "a chain of 3000 nodes": {"nodes": [{"children": [number + 1]} for number in range(3000)] + [{"mesh": 0}]},
        "2^40 nodes by reference": {"nodes": [*many, {"mesh": 0}]},
        "scaled by 0": {"nodes": [{"mesh": 0, "scale": [0, 0, 0]}]},
        "mirrored": {"nodes": [{"mesh": 0, "scale": [-1, 1, 1]}]},
        "a matrix of texts": {"nodes": [{"mesh": 0, "matrix": ["a"] * 16}]},
        "a short matrix": {"nodes": [{"mesh": 0, "matrix": [1, 2, 3]}]},
        "a matrix of 1e300": {"nodes": [{"mesh": 0, "matrix": [1e300] * 16}]},
        "an external buffer": {"buffers": [{"byteLength": len(buffer), "uri": "missing.bin"}]},
        "a buffer in another folder": {"buffers": [{"byteLength": len(buffer), "uri": "../../../etc/hostname"}]},
        "a buffer of the web": {"buffers": [{"byteLength": len(buffer), "uri": "http://localhost:9/a.bin"}]},
        "a buffer of bad base64": {"buffers": [{"byteLength": 9, "uri": "data:application/octet-stream;base64,@@@"}]},
        "points for triangles": {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]}]},
        "lines for triangles": {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 1}]}]},
        "no positions": {"meshes": [{"primitives": [{"attributes": {}, "indices": 1}]}]},
        "no primitives": {"meshes": [{"primitives": []}]},
        "lists for tables": {"meshes": {"a": 1}, "nodes": "b"},
        "version 1": {"asset": {"version": "1.0"}},
        "Draco that is needed": {"extensionsRequired": ["KHR_draco_mesh_compression"]},
    }
    for name, change in changes.items():
        yield name, good | change, buffer
    for count in (0, 5, 10**9, 2**40, -3):
        views = [dict(each) for each in good["accessors"]]  # type: ignore[attr-defined]
        yield f"a count of {count}", good | {"accessors": [views[0] | {"count": count}, views[1]]}, buffer
        yield f"{count} indices", good | {"accessors": [views[0], views[1] | {"count": count}]}, buffer
        ranges = [dict(each) for each in good["bufferViews"]]  # type: ignore[attr-defined]
        yield f"a view of {count}", good | {"bufferViews": [ranges[0] | {"byteLength": count}, ranges[1]]}, buffer
        yield f"a view from {count}", good | {"bufferViews": [ranges[0] | {"byteOffset": count}, ranges[1]]}, buffer


def bad_files(parts: list[Arrays], seed: int) -> Iterator[tuple[str, Written]]:
    """What is wrong, and the ending and content of a file with that; the same for the same seed."""
    generator = np.random.default_rng(seed)
    for kind in FORMATS:
        ending = kind.rpartition(".")[2]
        part = parts[int(generator.integers(len(parts)))]
        good = written(part, kind)
        for name, arrays in _bad_arrays(part, generator):
            yield f"{kind}, {name}", (ending, written(arrays, kind))
        for name, content in (*_bad_bytes(good, generator), *_bad_alone(generator), *_counts(good, kind)):
            yield f"{kind}, {name}", (ending, content)
        for other in ("glb", "obj", "off", "stl", "ply", "txt", "fbx", ""):
            if other != ending:
                yield f"{kind} that is named {other}", (other, good)
    for name, document, buffer in _documents(parts[0]):
        yield f"glb, {name}", ("glb", glb(document, buffer))
        outside = "buffers" in document and "uri" in document["buffers"][0]  # type: ignore[index]
        yield f"gltf, {name}", ("gltf", json.dumps(document).encode() if outside else gltf(document, buffer))
