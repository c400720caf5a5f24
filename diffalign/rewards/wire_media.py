"""Media as plain facts and arrays, for other processes and machines, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError
from diffalign.rewards.media import Audio, Video
from diffalign.rewards.pictures import as_pixels
from diffalign.sim import Mesh, Voxels

Arrays = Sequence[NDArray[Any]]
_KINDS = {  # the arrays of a medium
    "image": ("uint8",),
    "video": ("uint8",),
    "audio": ("float32",),
    "mesh": ("float64", "int64"),
    "voxels": ("uint8",),
}


class Packed(NamedTuple):
    """A medium or a sample, ready for a message: its arrays are counted from 0 until `pack_samples` joins them.

    Attributes:
        facts: what it is, and which of the arrays are its own.
        arrays: raw numbers.
    """

    facts: dict[str, Any]
    arrays: list[NDArray[Any]]


def pack_medium(medium: Any) -> Packed:
    """One medium in the form in which it is judged: its kind, its arrays and plain facts.

    This function and `read_medium` are where another kind is added.
    """
    if isinstance(medium, Audio):
        return Packed({"kind": "audio", "rate": medium.rate}, [medium.waveform])
    if isinstance(medium, Video):
        return Packed({"kind": "video", "fps": medium.fps}, [medium.frames])
    if isinstance(medium, Mesh):
        return Packed({"kind": "mesh", "up": medium.up}, [medium.vertices, medium.faces])
    if isinstance(medium, Voxels):
        return Packed({"kind": "voxels"}, [medium.occupied.astype(np.uint8)])
    if isinstance(medium, np.ndarray) and medium.dtype == np.uint8 and medium.ndim == 3:
        return Packed({"kind": "image"}, [medium])
    raise DataError(f"no such medium can be sent to another process: {type(medium).__name__}")


def read_medium(facts: Mapping[str, Any], arrays: Arrays) -> Any:
    """The medium that `pack_medium` packed.

    Raises:
        DataError: it is none.
    """
    kind, dtypes = facts["kind"], tuple(array.dtype.name for array in arrays)
    if kind not in _KINDS or dtypes != _KINDS[kind]:
        raise DataError(f"no medium of kind {kind!r} and {', '.join(dtypes)} is known here")
    if kind == "mesh":
        return _mesh(arrays, facts["up"])
    (array,) = arrays
    if kind == "voxels":
        return Voxels.of(array.astype(bool), allow_empty=True)
    if kind == "audio":
        return Audio(array, _number(facts["rate"]))
    return (
        Video(array, _number(facts["fps"])) if kind == "video" else as_pixels(array.copy())
    )  # rewards may hand it to torch, which wants to write


def _mesh(arrays: Arrays, up: Any) -> Mesh:
    """It was made sound where it came from; here only what could go wrong in memory is looked at."""
    vertices, faces = arrays
    if vertices.shape[1:] != (3,) or faces.shape[1:] != (3,) or up not in ("x", "y", "z"):
        raise DataError(f"a mesh has vertices and faces [..., 3], got {list(vertices.shape)} and {list(faces.shape)}")
    if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices) or not np.isfinite(vertices).all():
        raise DataError("the faces of the mesh name vertices that are not there")
    return Mesh(vertices.copy(), faces.copy(), up)


def _number(told: Any) -> Any:
    if type(told) not in (int, float):
        raise DataError(f"a rate must be a number, got {told!r}")
    return told
