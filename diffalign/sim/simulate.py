"""Does a shape stay standing: it is put on the ground as one rigid body, and MuJoCo says where it comes to rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.sim.mesh import Mesh
from diffalign.sim.solid import DENSITY, Mass, Shape, Solid, hull_faces, solid_of

Mode = Literal["exact", "dso"]
_CHECK_EVERY = 0.02  # seconds
_REST_SPEED = 1e-3  # m/s and rad/s of a shape whose longest side is 1
_NUDGE_FOR = 0.5  # seconds, before which nothing counts as at rest


@dataclass(frozen=True, eq=False)
class Stability:
    """What became of a shape.

    Attributes:
        stable: whether it turned by less than the threshold; None where it could not be simulated.
        reason: why not, or None.
        tilt: degrees between its upward direction before and after, 0 to 180; NaN where it was not simulated.
        rotation: degrees of its whole rotation, turns about the vertical included, 0 to 180.
        seconds: simulated until it was at rest, had toppled, or time was up.
        at_rest: whether it was at rest at the end.
        pose: [4, 4], from the shape's own coordinates to where it is at the end.
        mass: what the mass was taken from (see `solid_of`); "legacy" in the mode `dso`.
    """

    stable: bool | None
    reason: str | None
    tilt: float
    rotation: float
    seconds: float
    at_rest: bool
    pose: NDArray[np.float64]
    mass: Mass | Literal["legacy"] | None

    @classmethod
    def failed(cls, reason: str) -> Stability:
        """Of a shape that could not be simulated."""
        return cls(None, reason, math.nan, math.nan, 0.0, False, np.eye(4), None)


def simulate_stability(
    shape: Shape,
    *,
    mode: Mode = "exact",
    threshold: float = 20.0,
    nudge: float = 1.0,
    seed: int = 0,
    settle: bool = False,
    seconds: float | None = None,
    mass: Mass = "exact",
    fallback: Literal["hull", "shell"] = "hull",
    normalise: bool | None = None,
) -> Stability:
    """Put a shape on the ground and let go.

    It is one rigid body of even density with MuJoCo's default friction, dropped so that its lowest point touches the
    plane. The answer depends on the arguments alone: simulated time is what is limited, never that of a clock.

    Args:
        shape: a mesh or voxels, z up.
        mode: `exact`: exact inertia, longest side scaled to 1, a nudge, steps of 2 ms, at most 5 s, and an end as soon as
            it is at rest or has toppled. `dso`: the recipe of the authors' labels: MuJoCo's legacy inertia, no
            scaling, no nudge, steps of 1 ms for all of 10 s, and the whole rotation (2 acos w) in the place of the
            tilt.
        threshold: degrees from which on it is not stable.
        nudge: degrees by which the ground leans for the first half second, to a side that the seed draws: what balances on
            a tip falls, and what stands is not moved, as a push or a drop would. Of mode exact.
        seed: of the side.
        settle: go on until it is at rest, also where it has toppled: for final poses and graded tilts.
        seconds: simulated at most; None: the mode's.
        mass, fallback: as in `solid_of`; of mode exact.
        normalise: exact: scale the longest side to 1 (None: yes). dso: about the mean of the vertices, to a largest
            coordinate of 0.5, as the authors evaluate (None: no, as they label).

    Returns:
        What became of it.

    Raises:
        DataError: it has no volume, or MuJoCo cannot take it; the text says why.
        MissingExtraError: MuJoCo or SciPy is not installed.

    Source: Li et al. 2025, "DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness", the authors'
    simulation_utils.py.
    """
    if mode == "dso":
        return _as_dso(shape, threshold, 10.0 if seconds is None else seconds, bool(normalise))
    solid = solid_of(shape, mass=mass, fallback=fallback)
    unit = 1.0 if normalise is False else 1.0 / solid.extent
    scaled = solid.scaled(unit)
    model = _model_of(scaled, timestep=0.002)
    ground = float(scaled.points[:, 2].min())
    ending = None if settle else threshold
    body, tilted, passed, at_rest = _run(
        model, -ground, 5.0 if seconds is None else seconds, ending, lean=_lean_of(nudge, seed)
    )
    body[:3, 3] /= unit
    return Stability(tilted < threshold, None, tilted, _rotation(body), passed, at_rest, body, solid.mass)


def _as_dso(shape: Shape, threshold: float, seconds: float, normalise: bool) -> Stability:
    mesh = shape if isinstance(shape, Mesh) else shape.surface()
    points = mesh.vertices
    moved, unit = np.zeros(3), 1.0
    if normalise:
        moved = points.mean(0)
        unit = 0.5 / float(np.abs(points - moved).max())
    points = (points - moved) * unit
    ground = float(points[:, 2].min())
    placed = points - [0.0, 0.0, ground]
    mujoco = _mujoco()
    spec = mujoco.MjSpec()
    spec.add_mesh(name="shape", uservert=placed.ravel(), userface=mesh.faces.ravel().astype(np.int32))
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    body = spec.worldbody.add_body()
    body.add_freejoint()
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="shape")
    spec.option.timestep = 0.001
    pose, tilted, passed, at_rest = _run_whole(_compiled(spec), seconds)
    pose[:3, 3] += pose[:3, :3] @ np.array([0.0, 0.0, -ground]) - pose[:3, :3] @ moved * unit
    pose[:3, 3] /= unit
    rotation = _rotation(pose)
    return Stability(rotation < threshold, None, tilted, rotation, passed, at_rest, pose, "legacy")


def _model_of(solid: Solid, timestep: float) -> Any:
    """A plane and the free body, whose contact is its hull and whose mass is what `solid` says."""
    mujoco = _mujoco()
    spec = mujoco.MjSpec()
    corners, _ = hull_faces(solid.points)
    spec.add_mesh(name="hull", uservert=corners.ravel())
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    body = spec.worldbody.add_body()
    body.add_freejoint()
    body.explicitinertial = True
    body.mass = solid.volume * DENSITY
    body.ipos = solid.centre
    inertia = solid.inertia * DENSITY
    body.fullinertia = [inertia[row, column] for row, column in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="hull")
    spec.option.timestep = timestep
    return _compiled(spec)


def _compiled(spec: Any) -> Any:
    try:
        return spec.compile()
    except ValueError as error:
        raise DataError(f"MuJoCo cannot take the shape: {str(error).splitlines()[0]}") from None


def _run(
    model: Any, lift: float, seconds: float, ending: float | None, lean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float, bool]:
    """Pose, tilt, seconds passed and whether it is at rest, when it is, time is up, or it tilts by more than `ending`.

    Args:
        lift: height at which it begins.
        lean: the direction of gravity at first [3].
    """
    mujoco = _mujoco()
    data = mujoco.MjData(model)
    data.qpos[2] = lift
    down = model.opt.gravity.copy()
    model.opt.gravity[:] = lean * np.linalg.norm(down)
    step = float(model.opt.timestep)
    stride, steps, nudged = round(_CHECK_EVERY / step), round(seconds / step), round(_NUDGE_FOR / step)
    done = quiet = 0
    while done < steps and quiet < 2:  # twice: a body that rocks stands still at its turns
        mujoco.mj_step(model, data, nstep=min(stride, steps - done))
        done = min(done + stride, steps)
        if ending is not None and _tilt(data.qpos[3:7]) > ending:
            break
        if done < nudged:
            continue
        model.opt.gravity[:] = down
        quiet = quiet + 1 if float(np.abs(data.qvel).max()) < _REST_SPEED else 0
    return _pose_of(data), _tilt(data.qpos[3:7]), done * step, quiet > 1


def _run_whole(model: Any, seconds: float) -> tuple[NDArray[np.float64], float, float, bool]:
    """As `_run`, for all of the time and without a nudge."""
    mujoco = _mujoco()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, nstep=round(seconds / model.opt.timestep))
    at_rest = float(np.abs(data.qvel).max()) < _REST_SPEED
    return _pose_of(data), _tilt(data.qpos[3:7]), seconds, at_rest


def _pose_of(data: Any) -> NDArray[np.float64]:
    if not np.isfinite(data.qpos).all() or any(warning.number for warning in data.warning):
        raise DataError("the simulation became unstable: the shape is too thin or too small for MuJoCo")
    mujoco = _mujoco()
    pose, rotation = np.eye(4), np.empty(9)
    mujoco.mju_quat2Mat(rotation, data.qpos[3:7])
    pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), data.qpos[:3]
    return pose


def _tilt(quaternion: NDArray[np.float64]) -> float:
    """Degrees between z and where the rotation takes it."""
    _, x, y, _ = quaternion / np.linalg.norm(quaternion)
    return math.degrees(math.acos(min(1.0, max(-1.0, 1 - 2 * float(x * x + y * y)))))


def _rotation(pose: NDArray[np.float64]) -> float:
    """Degrees of the whole rotation, 2 acos |w|."""
    return math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(pose[:3, :3])) - 1) / 2))))


def _lean_of(degrees: float, seed: int) -> NDArray[np.float64]:
    """The direction of gravity on a ground that leans by so many degrees, to the side that the seed draws."""
    side, angle = np.random.default_rng(seed).uniform(0, 2 * math.pi), math.radians(degrees)
    return np.array([math.sin(angle) * math.cos(side), math.sin(angle) * math.sin(side), -math.cos(angle)])


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError:
        raise MissingExtraError("the simulation needs MuJoCo: pip install 'diffalign[sim]'") from None
    return mujoco
