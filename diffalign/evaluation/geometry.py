"""What alignment did to shapes besides making them stand: how far they moved from those of the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.statistics import paired_bootstrap, prompt_means
from diffalign.exceptions import DataError
from diffalign.sim import Voxels, likeness, shared_share

_POINTS = 2000  # on each surface
_TAU = 0.05  # of the F-score, in longest sides


def compare_shapes(base: Tensor, aligned: Tensor, prompts: Sequence[str], config: EvaluationConfig) -> dict[str, Any]:
    """Figures of two sets of grids [batch, 1, x, y, z], whose members of one place have one prompt and one seed.

    Returns:
        `volume` (share of the grid that is filled) and `pieces` of both sides with the interval of their difference;
        `chamfer`, `f_score` and `shared` (IoU) between the two of a place; `empty` grids of both sides, which the others
        leave out; and `measure`, which says what these are.
    """
    pairs = [(_shape(one), _shape(other)) for one, other in zip(base, aligned, strict=True)]
    whole = [(number, one, other) for number, (one, other) in enumerate(pairs) if one is not None and other is not None]
    told = [prompts[number] for number, _, _ in whole]
    found: dict[str, Any] = {
        "measure": f"surfaces scaled to a longest side of 1, {_POINTS} points, F-score at {_TAU}; shared: cells that both "
        "fill over those that one of them does",
        "empty": [sum(pair[side] is None for pair in pairs) for side in (0, 1)],
        "compared": len(whole),
    }
    if not whole:
        return found
    for name, figure in (("volume", lambda shape: shape.volume), ("pieces", lambda shape: float(shape.pieces))):
        sides = [prompt_means(np.array([figure(pair[side]) for pair in whole]), told) for side in (1, 2)]
        change = paired_bootstrap(
            sides[1] - sides[0], confidence=config.confidence, resamples=config.resamples, seed=config.seed
        )
        found[name] = {
            "base": float(sides[0].mean()),
            "aligned": float(sides[1].mean()),
            "difference": change.value,
            "low": change.low,
            "high": change.high,
        }
    alike = [likeness(one, other, tau=_TAU, count=_POINTS) for _, one, other in whole]
    found["chamfer"] = float(np.mean([each.chamfer for each in alike]))
    found["f_score"] = float(np.mean([each.f_score for each in alike]))
    found["shared"] = float(np.mean([shared_share(one, other) for _, one, other in whole]))
    return found


def _shape(grid: Tensor) -> Voxels | None:
    try:
        return Voxels.of(grid.numpy())
    except DataError:
        return None
