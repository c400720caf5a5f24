"""Does a shape stay standing: it is put on the ground as one rigid body, and MuJoCo says where it comes to rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import ConfigError, DataError, MissingExtraError
from diffalign.sim.mesh import Mesh
from diffalign.sim.solid import DENSITY, Mass, Shape, Solid, Taken, checked_shape, hull_faces, solid_of

Mode = Literal["exact", "dso"]
_CHECK_EVERY = 0.02  # seconds
_REST_SPEED = 1e-3  # m/s and rad/s of a shape whose longest side is 1
_QUIET_CHECKS = 5  # in a row: one that rocks stands still at its turns, one that begins to fall is slow
_OVERSHOOT = 10.0  # degrees beyond the threshold from which none comes back: what falls onto its foot rocks a little
_REFUSED = {  # what MuJoCo says, and what that means of a shape
    "coplanar": "is too thin to be simulated",
    "collinear": "is too thin to be simulated",
    "inertia": "is too thin or too small to be simulated",
    "too small": "is too thin or too small to be simulated",
    "colocated": "is too small to be simulated",
    "not finite": "is too large to be simulated",
}
_NUDGE_FOR = 0.5  # seconds, before which nothing counts as at rest


@dataclass(frozen=True, eq=False)
class Stability:
    """What became of a shape.

    Attributes:
        stable: whether it is tilted by less than the threshold at the end, and never was by 10 degrees more than that (a
            full turn is not the way back). Mode `dso`: whether it has turned by less at the end. None where it could not
            be simulated.
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
    mass: Taken | Literal["legacy"] | None

    @classmethod
    def failed(cls, reason: str) -> Stability:
        """Of a shape that could not be simulated."""
        return cls(None, reason, math.nan, math.nan, 0.0, False, np.eye(4), None)


def simulate_stability(
    shape: Shape | Solid,
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
        shape: a mesh or voxels, z up; in mode exact also the body of one, as `solid_of` makes it.
        mode: `exact`: exact inertia, longest side scaled to 1, a nudge, steps of 2 ms, at most 5 s, and an end as soon as
            it is at rest or has toppled (is tilted by 10 degrees more than the threshold). `dso`: the recipe of the
            authors' labels: MuJoCo's legacy inertia, no scaling, no nudge, steps of 1 ms for all of 10 s, and the whole
            rotation (2 acos w) in the place of the tilt.
        threshold: degrees from which on it is not stable.
        nudge: degrees by which the ground leans for the first half second, to a side that the seed draws: what balances on
            a tip falls, and what stands is not moved, as a push or a drop would. Shapes that bear less than that, but
            something, go by the side it leans to. Of mode exact.
        seed: of the side.
        settle: go on until it is at rest, also where it has toppled: for final poses and graded tilts.
        seconds: simulated at most; None: the mode's.
        mass, fallback: as in `solid_of`; of mode exact.
        normalise: exact: scale the longest side to 1 (None: yes). dso: about the mean of the vertices, to a largest
            coordinate of 0.5, as the authors evaluate (None: no, as they label).

    Returns:
        What became of it.

    Raises:
        DataError: it is no shape, has no volume, or MuJoCo cannot take it; the text says why.
        ConfigError: no such mode, mass or fallback.
        MissingExtraError: MuJoCo or SciPy is not installed.

    Source: Li et al. 2025, "DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness", the authors'
    simulation_utils.py.
    """
    _check(mode, mass, fallback)
    if mode == "dso":
        if isinstance(shape, Solid):
            raise ConfigError("mode: dso makes its own body of a mesh or voxels, and got a Solid")
        return _as_dso(checked_shape(shape), threshold, 10.0 if seconds is None else seconds, bool(normalise))
    solid = shape if isinstance(shape, Solid) else solid_of(shape, mass=mass, fallback=fallback)
    unit = 1.0 if normalise is False else 1.0 / solid.extent
    placed = replace(solid, points=solid.points - solid.centre, centre=np.zeros(3)).scaled(unit)
    start = solid.centre * unit
    start[2] = -float(placed.points[:, 2].min())
    body, toppled, passed, at_rest = _run(
        _model_of(placed, timestep=0.002),
        start,
        5.0 if seconds is None else seconds,
        threshold + _OVERSHOOT,
        lean=_lean_of(nudge, seed),
        settle=settle,
    )
    body[:3, 3] = body[:3, 3] / unit - body[:3, :3] @ solid.centre
    tilted = _tilt(body)
    return Stability(
        not toppled and tilted < threshold, None, tilted, _rotation(body), passed, at_rest, body, solid.mass
    )


def _check(mode: str, mass: str, fallback: str) -> None:
    for name, value, known in (
        ("mode", mode, get_args(Mode)),
        ("mass", mass, get_args(Mass)),
        ("fallback", fallback, ("hull", "shell")),
    ):
        if value not in known:
            raise ConfigError(f"{name}: must be one of {', '.join(known)}, got {value!r}")


def _as_dso(shape: Shape, threshold: float, seconds: float, normalise: bool) -> Stability:
    mesh = shape if isinstance(shape, Mesh) else shape.surface()
    moved, unit = np.zeros(3), 1.0
    if normalise:
        moved = mesh.vertices.mean(0)
        unit = 0.5 / float(np.abs(mesh.vertices - moved).max())
    points = (mesh.vertices - moved) * unit
    ground = np.array([0.0, 0.0, points[:, 2].min()])
    once = np.unique(np.sort(mesh.faces, axis=1), axis=0, return_index=True)[1]  # whichever way they run
    faces = mesh.faces[np.sort(once)]
    mujoco = _mujoco()
    spec = mujoco.MjSpec()
    placed = np.round(points - ground, 6)  # the authors write the model as text with six decimals
    spec.add_mesh(name="shape", uservert=placed.ravel(), userface=faces.ravel().astype(np.int32))
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    body = spec.worldbody.add_body()
    body.add_freejoint()
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="shape")
    spec.option.timestep = 0.001
    pose, angle, at_rest = _run_whole(_compiled(spec), seconds)
    pose[:3, 3] = (pose[:3, 3] - pose[:3, :3] @ (ground + moved * unit)) / unit + [moved[0], moved[1], 0.0]
    return Stability(angle < threshold, None, _tilt(pose), _rotation(pose), seconds, at_rest, pose, "legacy")


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
    except (ValueError, _mujoco().FatalError) as error:
        said = str(error).splitlines()[0].removeprefix("Error: ")
        why = next((why for part, why in _REFUSED.items() if part in said), "cannot be simulated")
        raise DataError(f"the shape {why} (MuJoCo: {said})") from None


def _run(
    model: Any,
    start: NDArray[np.float64],
    seconds: float,
    fallen: float,
    lean: NDArray[np.float64],
    settle: bool,
) -> tuple[NDArray[np.float64], bool, float, bool]:
    """Pose, whether it toppled, seconds passed and whether it is at rest: then, or when time is up.

    Args:
        start: position at which it begins [3].
        fallen: degrees of tilt from which on it has toppled; that is an end too, unless `settle`.
        lean: the direction of gravity at first [3].
    """
    mujoco = _mujoco()
    data = mujoco.MjData(model)
    data.qpos[:3] = start
    down = model.opt.gravity.copy()
    model.opt.gravity[:] = lean * np.linalg.norm(down)
    step = float(model.opt.timestep)
    stride, steps, nudged = round(_CHECK_EVERY / step), round(seconds / step), round(_NUDGE_FOR / step)
    done = quiet = 0
    toppled = False
    with _without_log():
        while done < steps and quiet < _QUIET_CHECKS and (settle or not toppled):
            mujoco.mj_step(model, data, nstep=min(stride, steps - done))
            done = min(done + stride, steps)
            toppled = toppled or _tilt(_pose_of(data)) >= fallen
            if done < nudged:
                continue
            model.opt.gravity[:] = down
            quiet = quiet + 1 if float(np.abs(data.qvel).max()) < _REST_SPEED else 0
    _check_numbers(data)
    return _pose_of(data), toppled, done * step, quiet >= _QUIET_CHECKS


def _run_whole(model: Any, seconds: float) -> tuple[NDArray[np.float64], float, bool]:
    """Pose, the authors' angle and whether it is at rest after all of the time, without a nudge.

    Their angle is 2 acos w, which goes on from 180 to 360 degrees: a full turn is not the way back.
    """
    mujoco = _mujoco()
    data = mujoco.MjData(model)
    with _without_log():
        mujoco.mj_step(model, data, nstep=round(seconds / model.opt.timestep))
        while 0 < data.time < seconds:  # sums of 0.001 stay just below 10: they take 10,001 steps
            mujoco.mj_step(model, data)
    _check_numbers(data)
    at_rest = float(np.abs(data.qvel).max()) < _REST_SPEED
    w = float(data.qpos[3] / np.linalg.norm(data.qpos[3:7]))
    return _pose_of(data), math.degrees(2 * math.acos(min(1.0, max(-1.0, w)))), at_rest


@contextmanager
def _without_log() -> Iterator[None]:
    """MuJoCo writes a log file into the working directory when it warns: not within this."""
    mujoco = _mujoco()
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _check_numbers(data: Any) -> None:
    if not np.isfinite(data.qpos).all() or any(warning.number for warning in data.warning):
        raise DataError("the shape is too thin or too small to be simulated (it became unstable)")


def _pose_of(data: Any) -> NDArray[np.float64]:
    pose, rotation = np.eye(4), np.empty(9)
    _mujoco().mju_quat2Mat(rotation, data.qpos[3:7])
    pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), data.qpos[:3]
    return pose


def _tilt(pose: NDArray[np.float64]) -> float:
    """Degrees between z and where the rotation takes it."""
    return math.degrees(math.acos(min(1.0, max(-1.0, float(pose[2, 2])))))


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
        mujoco = None
    if not hasattr(mujoco, "MjSpec"):  # an uninstalled one may leave its folder
        raise MissingExtraError("the simulation needs MuJoCo 3.3 or newer: pip install 'diffalign[sim]'")
    return mujoco
