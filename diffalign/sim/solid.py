"""A shape as one rigid body: where its mass is, and the points that can touch the ground."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.sim.mesh import Mesh
from diffalign.sim.touching import bodies
from diffalign.sim.voxels import Voxels
from diffalign.sim.winding import closed_parts

Shape = Mesh | Voxels
Mass = Literal["exact", "hull", "shell"]
Taken = Literal["exact", "partly", "hull", "shell"]
DENSITY = 1000.0  # kg/m^3, MuJoCo's default; stability does not depend on it
_FLAT = 1e-9  # of the longest side's cube: less volume is none
_MOST_OPEN = 1000  # open bodies that get a hull each; of more the whole has one


@dataclass(frozen=True, eq=False)
class Solid:
    """A rigid body.

    Attributes:
        points: [points, 3] whose convex hull is the body's. On a plane a body touches with its hull alone, so this is
            exact, and no decomposition into convex parts is needed.
        volume: of the solid, or the area of the shell.
        centre: of mass [3].
        inertia: [3, 3] about the centre, per density.
        mass: what the mass was taken from: the closed surface (`exact`), its convex hull, or its surface (`shell`); or
            `partly` from closed parts, with the hulls of open ones beside them.
        exact: the share of the volume that closed parts enclose.
    """

    points: NDArray[np.float64]
    volume: float
    centre: NDArray[np.float64]
    inertia: NDArray[np.float64]
    mass: Taken
    exact: float

    @property
    def extent(self) -> float:
        """The longest side of its box."""
        return float(np.ptp(self.points, axis=0).max())

    def scaled(self, factor: float) -> Solid:
        """The same shape, `factor` times as large."""
        area = 4 if self.mass == "shell" else 5
        return replace(
            self,
            points=self.points * factor,
            volume=self.volume * factor ** (area - 2),
            centre=self.centre * factor,
            inertia=self.inertia * factor**area,
        )


def solid_of(shape: Shape, *, mass: Mass = "exact", fallback: Literal["hull", "shell"] = "hull") -> Solid:
    """The rigid body of a shape, of even density.

    Args:
        mass: what to take the mass from. `exact`: the volume that the surface encloses. Where a part of it encloses none
            (it is open, or wound inconsistently), `fallback` stands in for that part alone, and the answer's `mass` says
            `partly`; where no part encloses any, it stands in for the whole.
        fallback: the convex hull: of each body of open parts that touch, while those that are flat, as a label on a wall,
            are left out. Or `shell`, the surface as a thin shell: of the whole, as a shell and a volume have no common
            density; but not for flat parts beside closed ones.

    Raises:
        DataError: it is no shape, is flat, or its volume is not a number that can be worked with.
        MissingExtraError: the hull without SciPy.
    """
    shape = checked_shape(shape)
    if isinstance(shape, Voxels):
        return _of_cubes(shape) if mass == "exact" else _of_mesh(shape.surface(), mass)
    if mass == "exact" and not shape.closed:
        return _of_parts(shape, fallback) or _of_mesh(shape, fallback)
    return _of_mesh(shape, mass)


def checked_shape(shape: Any) -> Shape:
    """The shape itself.

    Raises:
        DataError: it is something else; names what makes a shape of it.
    """
    if isinstance(shape, Mesh | Voxels):
        return shape
    raise DataError(f"a shape must be a diffalign.sim Mesh or Voxels, got {how_to_make_one(shape)}")


def how_to_make_one(other: Any) -> str:
    """What something is that is no shape, and the call that makes a shape of it where there is one."""
    if isinstance(other, str | os.PathLike):
        return f"the path {os.fspath(other)!r}; read the file with diffalign.sim.read_mesh(path)"
    name = type(other).__name__
    turned = "up='y' where y points up in it, as in a GLB"
    if hasattr(other, "vertices") and hasattr(other, "faces"):
        return f"a {name}; make it one with diffalign.sim.Mesh.of(mesh.vertices, mesh.faces), with {turned}"
    if hasattr(other, "to_geometry"):
        return (
            f"a {name}; mesh = scene.to_geometry() joins its parts, and diffalign.sim.Mesh.of(mesh.vertices, mesh.faces) "
            f"makes it one, with {turned}; of a file diffalign.sim.read_mesh(path) does all of it"
        )
    return (
        f"{name}; diffalign.sim.read_mesh(path) reads a file, Mesh.of(vertices, faces) and Voxels.of(grid) take arrays"
    )


def hull_faces(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The convex hull as a closed mesh: its vertices, and faces that are counterclockwise from outside.

    Raises:
        DataError: the points lie in a plane.
        MissingExtraError: SciPy is not installed.
    """
    convex_hull, error = _qhull()
    try:
        hull = convex_hull(points)
    except error:
        raise DataError("the shape is flat: it has no volume that could stand") from None
    faces = hull.simplices.astype(np.int64)
    corners = hull.points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inwards = np.einsum("ij,ij->i", normal, hull.equations[:, :3]) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    used = np.unique(faces)
    return hull.points[used], np.searchsorted(used, faces)


def _qhull() -> tuple[Callable[[Any], Any], type[Exception]]:
    try:
        from scipy.spatial import ConvexHull, QhullError
    except ImportError:
        raise MissingExtraError("convex hulls need SciPy: pip install 'diffalign[sim]'") from None
    return ConvexHull, QhullError


def _of_cubes(shape: Voxels) -> Solid:
    side, cells = shape.side, np.argwhere(shape.occupied) * shape.side + shape.side / 2
    centre = cells.mean(0)
    second = np.einsum("ij,ik->jk", cells - centre, cells - centre) + len(cells) * np.eye(3) * side**2 / 12
    return Solid(shape.corners(), len(cells) * side**3, centre, _inertia_of(second * side**3), "exact", 1.0)


def _of_mesh(mesh: Mesh, mass: Mass) -> Solid:
    unit, low = mesh.extent, mesh.vertices.min(0)
    points = (mesh.vertices - low) / unit  # in the unit box, so that thresholds and precision do not go by the scale
    if mass == "shell":
        volume, centre, second = _shell_moments(points, mesh.faces)
    else:
        corners, faces = hull_faces(points) if mass == "hull" else (points, mesh.faces)
        volume, centre, second = _volume_moments(corners, faces)
    if not volume > _FLAT:
        raise DataError("the shape is flat, or inside out: it has no volume that could stand")
    return _placed(Solid(points, volume, centre, _inertia_of(second), mass, float(mass == "exact")), mesh)


def _of_parts(mesh: Mesh, fallback: Literal["hull", "shell"]) -> Solid | None:
    """Closed parts by their volume, and the hulls of open bodies; None where that says nothing, and for shells."""
    closed = closed_parts(len(mesh.vertices), mesh.faces)
    points = (mesh.vertices - mesh.vertices.min(0)) / mesh.extent
    whole = _volume_moments(points, mesh.faces[closed])[0] if closed.any() else 0.0
    if not whole > _FLAT:
        return None
    hulls = _hulls(points, mesh.faces[~closed])
    if hulls is None or (hulls and fallback == "shell"):
        return None
    offsets = np.cumsum([len(points), *(len(corners) for corners, _ in hulls)])
    faces = [mesh.faces[closed], *(each + start for (_, each), start in zip(hulls, offsets, strict=False))]
    corners = np.concatenate([points, *(each for each, _ in hulls)])
    volume, centre, second = _volume_moments(corners, np.concatenate(faces))
    return _placed(Solid(points, volume, centre, _inertia_of(second), "partly", whole / volume), mesh)


def _hulls(
    points: NDArray[np.float64], faces: NDArray[np.int64]
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]] | None:
    """The hulls of the bodies of an open surface, of those that have a volume; None where there are too many."""
    body = bodies(points - points[faces].min((0, 1)), faces)
    if body.max() >= _MOST_OPEN:
        return None
    found = []
    for number in range(int(body.max()) + 1):
        own = points[np.unique(faces[body == number])]
        try:
            hull = hull_faces(own)
        except DataError:  # flat
            continue
        if _volume_moments(*hull)[0] > _FLAT:
            found.append(hull)
    return found


def _placed(solid: Solid, mesh: Mesh) -> Solid:
    """Where the mesh is, from the unit box."""
    low, found = mesh.vertices.min(0), solid.scaled(mesh.extent)
    return replace(found, points=found.points + low, centre=found.centre + low)


def _volume_moments(
    points: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Volume, centre and central second moments of what a closed surface encloses: signed tetrahedra from a point.

    Source: the moments of a tetrahedron with one corner in the origin, as in Blow and Binstock 2004, "How to find the
    inertia tensor (or other mass properties) of a 3D solid body represented by a triangle mesh".
    """
    origin = points.mean(0)
    corners = points[faces] - origin
    six = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    volume = float(six.sum() / 6)
    if not volume > _FLAT:
        return volume, origin, np.zeros((3, 3))
    total = corners.sum(1)
    centre = np.einsum("i,ij->j", six, total) / (24 * volume)
    second = (
        np.einsum("i,ikj,ikl->jl", six, corners, corners) + np.einsum("i,ij,il->jl", six, total, total)
    ) / 120 - volume * np.outer(centre, centre)
    return volume, centre + origin, second


def _shell_moments(
    points: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Area, centre and central second moments of a surface of even thickness."""
    corners = points[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    whole = float(area.sum())
    if not whole > _FLAT:
        return whole, points.mean(0), np.zeros((3, 3))
    centre = np.einsum("i,ij->j", area, corners.mean(1)) / whole
    around = corners - centre
    total = around.sum(1)
    second = (np.einsum("i,ikj,ikl->jl", area, around, around) + np.einsum("i,ij,il->jl", area, total, total)) / 12
    return whole, centre, second


def _inertia_of(second: NDArray[np.float64]) -> NDArray[np.float64]:
    inertia: NDArray[np.float64] = np.trace(second) * np.eye(3) - second
    return inertia
