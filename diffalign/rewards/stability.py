"""Would the object stay standing? A rigid-body simulation of a mesh or of an occupancy grid."""

from __future__ import annotations

import importlib.metadata
from typing import Literal

from diffalign.exceptions import ConfigError, MissingExtraError
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.sim import Mesh, Voxels, simulate_stability, solid_of, static_stability
from diffalign.sim.overlap import doubled_share

__all__ = ["StabilityReward", "stability_spec"]

Form = Literal["stands", "tilt", "margin"]
_FORMS: dict[str, tuple[str, tuple[float, float]]] = {  # unit and range
    "stands": ("1", (0.0, 1.0)),
    "tilt": ("degrees", (-180.0, 0.0)),
    "margin": ("sides", (-1.0, 1.0)),
}
# of a grid without a filled cell: the worst of each, so that no mean leaves it out; it has no mass, and nothing to simulate
_STATICS_OF_NOTHING = {"margin": -1.0, "critical_angle": -90.0, "pieces": 0.0}
_REST_OF_NOTHING = {"stands": 0.0, "tilt": 180.0, "rotation": 180.0}


class StabilityReward(SampleReward):
    """Whether an object stays as it was put down: DSO's label, by MuJoCo.

        stands  1 where it turns by less than `threshold` degrees, else 0
        tilt    -degrees between its upward direction before and after it came to rest
        margin  how far its centre of mass lies inside the polygon that it stands on, over its longest side; no simulation

    Range: {0, 1}, [-180, 0], [-1, 1]. Higher is better. Components: stands, tilt and rotation (degrees, where it came to
    rest, in every form that simulates), margin, critical_angle (degrees by which it may lean), pieces, seconds (simulated),
    at_rest (1, or 0 where the time was up before: of mode exact 5 s), exact (the share of the volume that closed parts
    enclose; the rest is hulls of open ones: 0 where none is closed) and overlap (the share that counts more than once, as
    closed parts run into each other; an estimate). Differentiable: no. The media are meshes, z up, or occupancy grids. What
    topples is simulated until it lies, in form stands too. A grid without a filled cell gets the worst value, and the worst
    of each component but seconds, at_rest, exact and overlap, which it has none of: a model that draws nothing makes
    nothing that stands.
    Source: Li et al. 2025, "DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness"; see
    `diffalign.sim.simulate_stability` for what is done otherwise, and `mode="dso"` for the authors' very recipe.

    Example:
        `StabilityReward()([read_mesh("chair.glb")])`
    """

    components = (
        "stands",
        "tilt",
        "rotation",
        "margin",
        "critical_angle",
        "pieces",
        "seconds",
        "exact",
        "overlap",
        "at_rest",
    )

    def __init__(
        self,
        *,
        form: Form = "stands",
        mode: Literal["exact", "dso"] = "exact",
        threshold: float = 20.0,
        nudge: float = 1.0,
        seed: int = 0,
        pieces: Literal["joined", "fall"] = "joined",
        up: Literal["auto", "x", "y", "z"] = "auto",
        filled: bool = False,
    ) -> None:
        """Say what counts.

        Args:
            form: what the value is.
            mode, threshold, nudge, seed: as in `simulate_stability`.
            pieces: an object whose parts do not touch is one body (joined, as in DSO), or falls apart: it does not stand
                (0, or -180 degrees).
            up: the axis that points up in a mesh's own coordinates; auto: as its file's format says.
            filled: cells of a grid that no path of empty cells joins to the outside count as filled: for models that draw
                the surface of a solid, as TRELLIS' first stage does. Meshes are solid anyway.

        Raises:
            ConfigError: names the argument.
        """
        if form not in _FORMS:
            raise ConfigError(f"stability.form: must be one of {', '.join(_FORMS)}, got {form!r}")
        if mode not in ("exact", "dso"):
            raise ConfigError(f"stability.mode: must be 'exact' or 'dso', got {mode!r}")
        if not 0 < threshold <= 180:
            raise ConfigError(f"stability.threshold: must lie in (0, 180] degrees, got {threshold}")
        if not 0 <= nudge < 45:
            raise ConfigError(f"stability.nudge: must lie in [0, 45) degrees, got {nudge}")
        if pieces not in ("joined", "fall"):
            raise ConfigError(f"stability.pieces: must be 'joined' or 'fall', got {pieces!r}")
        if pieces == "fall" and form == "margin":
            raise ConfigError(
                "stability.pieces: fall says nothing of a margin; take form stands or tilt, or leave it out"
            )
        if up not in ("auto", "x", "y", "z"):
            raise ConfigError(f"stability.up: must be 'auto', 'x', 'y' or 'z', got {up!r}")
        self.form, self.mode, self.threshold, self.nudge, self.seed = form, mode, threshold, nudge, seed
        self.pieces, self.up, self.filled = pieces, up, filled
        self.spec = stability_spec(self)

    def judge(self, medium: Mesh | Voxels, sample: Sample) -> tuple[float, dict[str, float]]:
        if isinstance(medium, Voxels) and not medium.occupied.any():
            worst = _FORMS[self.form][1][0]
            return worst, _STATICS_OF_NOTHING | ({} if self.form == "margin" else _REST_OF_NOTHING)
        shape = self._posed(medium)
        solid = solid_of(shape)
        static = static_stability(solid)
        pieces = shape.pieces
        parts = {
            "margin": static.margin / solid.extent,
            "critical_angle": static.critical_angle,
            "pieces": float(pieces),
            "exact": solid.exact,
            "overlap": doubled_share(shape) if isinstance(shape, Mesh) else 0.0,
        }
        if self.form == "margin":
            return parts["margin"], parts
        found = simulate_stability(
            solid if self.mode == "exact" else shape,
            mode=self.mode,
            threshold=self.threshold,
            nudge=self.nudge,
            seed=self.seed,
            settle=True,
        )
        apart = self.pieces == "fall" and pieces > 1
        stands = bool(found.stable) and not apart
        parts |= {"stands": float(stands), "tilt": found.tilt, "rotation": found.rotation, "seconds": found.seconds}
        parts["at_rest"] = float(found.at_rest)
        if self.form == "stands":
            return float(stands), parts
        turned = found.rotation if self.mode == "dso" else found.tilt
        return (-180.0 if apart else -turned), parts

    def _posed(self, medium: Mesh | Voxels) -> Mesh | Voxels:
        if isinstance(medium, Voxels):
            return medium.filled() if self.filled else medium
        return medium if self.up == "auto" else medium.turned(self.up)


def stability_spec(reward: StabilityReward) -> RewardSpec:
    """What the number means."""
    unit, bounds = _FORMS[reward.form]
    how = f"{reward.mode}-t{reward.threshold:g}-n{reward.nudge:g}-s{reward.seed}-{reward.pieces}-{reward.up}"
    how += "-filled" if reward.filled else ""
    return RewardSpec(
        name="stability",
        version=f"3-{reward.form}-{how}-mujoco-{_mujoco_version()}",
        media="mesh",
        level="instance",
        unit=unit,
        range=bounds,
        differentiable=False,
        licence="Apache-2.0 (MuJoCo too)",
        needs=(),
        source='Li et al. 2025, "DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness"',
    )


def check_simulator() -> None:
    """Whether the extra is there.

    Raises:
        MissingExtraError: it is not; names it.
    """
    missing = [name for name in ("mujoco", "scipy", "trimesh") if not _installed(name)]
    if missing:
        raise MissingExtraError(
            f'the stability reward needs {" and ".join(missing)}; install with: pip install "diffalign[sim]"'
        )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _mujoco_version() -> str:
    return importlib.metadata.version("mujoco") if _installed("mujoco") else "none"
