"""What alignment did to shapes besides making them stand: how far they moved from those of the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.statistics import PairedMeans, paired_means, prompt_means
from diffalign.exceptions import DataError
from diffalign.rewards.functional import diversity_within
from diffalign.sim import Voxels, likeness, shared_share

_POINTS = 10_000  # on each surface
_TAU = 0.05  # of the F-score, in longest sides


def compare_shapes(base: Tensor, aligned: Tensor, prompts: Sequence[str], config: EvaluationConfig) -> dict[str, Any]:
    """Figures of two sets of grids [batch, 1, x, y, z], whose members of one place have one prompt and one seed.

    Returns:
        `volume` (share of the grid that is filled) and `pieces` of both sides with the interval of their difference.
        `chamfer`, `f_score` and `shared` (IoU) between the two of a place; `chamfer_floor`, which two samplings of one
        surface, the base model's, are apart: `chamfer` of shapes that did not change.
        `empty` grids of both sides, which the others leave out; `measure`, which says what these are.
        Where there are several shapes of a prompt also `diversity_within`, as `volume` is: mean 1 - IoU between those of
        one prompt; and `two_draws`: chamfer, f_score and shared between each shape of the base model and the next one of
        its prompt. All are means over prompts.
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
        sides = [np.array([figure(pair[side]) for pair in whole]) for side in (1, 2)]
        found[name] = _both(_means(sides[0], sides[1], told, config))
    found |= _likenesses([(one, other) for _, one, other in whole], told)
    found["chamfer_floor"] = _likenesses([(one, one) for _, one, _ in whole], told)["chamfer"]
    within = [diversity_within(side, prompts).numpy() for side in (base, aligned)]
    several = np.isfinite(within[0])
    if several.any():
        names = [str(number) for number in range(several.sum())]  # one figure a prompt
        found["diversity_within"] = _both(_means(within[0][several], within[1][several], names, config))
        found |= _two_draws([one for one, _ in pairs], prompts)
    return found


def _two_draws(shapes: Sequence[Voxels | None], prompts: Sequence[str]) -> dict[str, Any]:
    """How far apart shapes of one model and one prompt are anyway: the yardstick of what alignment did."""
    drawn: dict[str, list[Voxels]] = {}
    for shape, prompt in zip(shapes, prompts, strict=True):
        if shape is not None:
            drawn.setdefault(prompt, []).append(shape)
    pairs: list[tuple[Voxels, Voxels]] = []
    told: list[str] = []
    for prompt, several in drawn.items():
        following = several[1:] if len(several) == 2 else several[1:] + several[:1]  # of two there is one pair
        pairs += list(zip(several, following, strict=False)) if len(several) > 1 else []
        told += [prompt] * (len(pairs) - len(told))
    return {"two_draws": {"compared": len(pairs), **_likenesses(pairs, told)}} if pairs else {}


def _likenesses(pairs: Sequence[tuple[Voxels, Voxels]], prompts: Sequence[str]) -> dict[str, float]:
    alike = [likeness(one, other, tau=_TAU, count=_POINTS) for one, other in pairs]
    figures = {
        "chamfer": [each.chamfer for each in alike],
        "f_score": [each.f_score for each in alike],
        "shared": [shared_share(one, other) for one, other in pairs],
    }
    return {name: float(prompt_means(np.array(values), prompts).mean()) for name, values in figures.items()}


def _means(base: Any, aligned: Any, prompts: Sequence[str], config: EvaluationConfig) -> PairedMeans:
    return paired_means(
        base, aligned, prompts, confidence=config.confidence, resamples=config.resamples, seed=config.seed
    )


def _both(means: PairedMeans) -> dict[str, float]:
    return {"base": means.base, "aligned": means.aligned} | means.change


def _shape(grid: Tensor) -> Voxels | None:
    try:
        return Voxels.of(grid.numpy())
    except DataError:
        return None
