"""Making one shape stand after it was drawn, without training: what alignment is compared with.

Besides these there is best-of-n (`BestOf` with the stability reward).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines.generate import ImageGenerator
from diffalign.rewards import Reward, Sample
from diffalign.sim import Voxels, solid_of, static_stability
from diffalign.sim.static import support_polygon

_SHARPNESS = 4.0  # of the sigmoid that makes cells out of x0 in [-1, 1]


class Searched(NamedTuple):
    """What a search came to.

    Attributes:
        grid: the shape, occupancy [1, x, y, z] in [0, 1].
        score: its margin in longest sides, or the reward.
        tries: steps, or shapes that were drawn.
    """

    grid: Tensor
    score: float
    tries: int


def push_margin(
    grid: Float[Tensor, "1 x y z"], *, target: float = 0.05, steps: int = 200, rate: float = 0.1
) -> Searched:
    """Move the centre of mass over the feet by gradients: cells of the surface are added and taken away.

    The static margin, as a function of how full every cell is, is raised by gradient steps on the cells of the surface
    and those that touch it, until it reaches `target`. Layer by layer this may change much of a shape that has far to go,
    and part it into pieces: look at what it shares with what it was. Cells of the lowest layer may come, and none of it
    goes: the feet only grow.

    Args:
        grid: occupancy in [0, 1].
        target: margin to be reached, in longest sides of the grid.
        steps: at most.
        rate: by how much the cell with the largest gradient is changed in a step.

    Raises:
        DataError: the grid is empty.

    Source: diffalign's own, after Prévost et al. 2013, "Make It Stand: Balancing Shapes for 3D Fabrication".
    """
    cells = 2 * grid[0].detach().float().clone() - 1
    places = torch.stack(torch.meshgrid(*(torch.arange(side) + 0.5 for side in cells.shape), indexing="ij"), -1)
    places = places / max(cells.shape)
    for step in range(steps + 1):
        shape = Voxels.of(((cells + 1) / 2).clamp(0, 1).numpy())
        solid = solid_of(shape)
        margin = static_stability(solid).margin
        if margin >= target or step == steps:
            break
        soft = cells.clone().requires_grad_()
        filled = torch.sigmoid(_SHARPNESS * soft)
        filled = torch.where(cells > 0, filled, filled - torch.sigmoid(torch.tensor(-_SHARPNESS)))  # air weighs nothing
        centre = (filled[..., None] * places).sum((0, 1, 2))[:2] / filled.sum()
        (gradient,) = torch.autograd.grad(_margin(centre, support_polygon(solid)), soft)
        gradient = gradient * _surface(shape, cells)
        largest = gradient.abs().max()
        if not largest > 0:
            break
        cells = (cells + rate * gradient / largest).clamp(-1, 1)
    return Searched(((cells + 1) / 2)[None], margin, step)


def search_noise(
    generator: ImageGenerator,
    prompt: str,
    seed: int,
    reward: Reward,
    *,
    enough: float = 1.0,
    tries: int = 16,
    keep: float = 0.8,
    view: str = "policy",
) -> Searched:
    """Look for a starting noise whose shape the reward likes: the best one so far is changed a little, again and again.

    Args:
        reward: of shapes; a graded one leads somewhere.
        enough: stop at this reward.
        tries: shapes drawn at most.
        keep: what share of the best noise a new one has: z' = keep z + sqrt(1 - keep^2) new.

    Raises:
        ConfigError: no tries, or a `keep` outside of [0, 1).
        DataError: none of the shapes could be judged.

    Source: Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", zero-order search.
    """
    if tries < 1 or not 0 <= keep < 1:
        raise ConfigError(f"tries must be 1 or more and keep in [0, 1), got {tries} and {keep}")
    draws = torch.Generator().manual_seed(seed)
    best: Searched | None = None
    noise = held = generator.noise([draws])[:, 0]
    condition, why = generator.condition([prompt]), None
    for number in range(1, tries + 1):
        grid = generator.decode_from(noise, condition, draws, view=view)[0]
        output = reward.score([Sample(grid, prompt, id=f"try {number}")])
        score, why = output.values.item(), output.reasons[0] or why
        if not math.isnan(score) and (best is None or score > best.score):
            best, held = Searched(grid, score, number), noise
        if best is not None and best.score >= enough:
            break
        noise = keep * held + math.sqrt(1 - keep**2) * generator.noise([draws])[:, 0]
    if best is None:
        raise DataError(f"prompt {prompt!r}: none of {tries} shapes could be judged: {why}")
    return best._replace(tries=number)


def _margin(centre: Float[Tensor, " 2"], polygon: Float[np.ndarray, "corners 2"]) -> Tensor:
    """Signed distance to the nearest side's line, positive inside; to the middle, where the polygon has no area."""
    corners = torch.from_numpy(polygon).float()
    if len(corners) < 3:
        return -(centre - corners.mean(0)).norm()
    along = torch.roll(corners, -1, 0) - corners
    inward = torch.stack([-along[:, 1], along[:, 0]], 1) / along.norm(dim=1, keepdim=True)
    return ((centre - corners) * inward).sum(1).amin()


def _surface(shape: Voxels, cells: Tensor) -> Tensor:
    """1 for cells that touch the other kind, else 0; cells of the lowest layer that are filled stay."""
    filled = torch.from_numpy(shape.occupied)
    grown, whole = filled.clone(), filled.clone()
    for axis in range(3):
        for shift in (-1, 1):
            moved = torch.roll(torch.nn.functional.pad(filled, [1] * 6), shift, axis)[1:-1, 1:-1, 1:-1]
            grown |= moved
            whole &= moved
    layer = int(filled.any(0).any(0).nonzero()[0])
    free = grown & ~whole
    free[..., :layer] = False
    free[..., layer] &= ~filled[..., layer]
    return free.to(cells)
