"""Does a shape stand: rigid bodies on the ground, by simulation (MuJoCo) and by statics. Imports no torch.

from diffalign.sim import read_mesh, simulate_stability
simulate_stability(read_mesh("chair.glb")).stable
"""

from diffalign.sim.export import glb_of
from diffalign.sim.geometry import Likeness, likeness, shared_share, surface_points
from diffalign.sim.intake import MESHES, read_mesh
from diffalign.sim.mesh import Mesh
from diffalign.sim.pool import simulate_many
from diffalign.sim.render import render, settling
from diffalign.sim.simulate import Stability, simulate_stability
from diffalign.sim.solid import Solid, solid_of
from diffalign.sim.static import StaticStability, static_stability
from diffalign.sim.voxels import Voxels

__all__ = [
    "MESHES",
    "Likeness",
    "Mesh",
    "Solid",
    "Stability",
    "StaticStability",
    "Voxels",
    "glb_of",
    "likeness",
    "read_mesh",
    "render",
    "settling",
    "shared_share",
    "simulate_many",
    "simulate_stability",
    "solid_of",
    "static_stability",
    "surface_points",
]
