"""Fréchet distance to a reference set, negated: how far a set's features are from those that a set should have."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ShapeError
from diffalign.rewards.encoders import Encoder, PixelEncoder
from diffalign.rewards.protocol import RewardSpec
from diffalign.rewards.set_functional import Gaussian, covariance_factor
from diffalign.rewards.set_protocol import EncodedSetReward, checked_rows


@dataclass(frozen=True)
class FrechetState:
    """A set, as `FrechetReward` sees it. Features are taken from the reference's mean, which keeps sums of squares small.

    Attributes:
        rows: features [samples, features].
        total: their sum.
        squares: the sum of all their squares.
        second: sum of the outer products of the rows' parts in the reference's directions [rank, rank]; None in a set
            of no more samples than that: there the rows themselves are the shorter way.
    """

    rows: Float[Tensor, "samples features"]
    total: Float[Tensor, " features"]
    squares: Float[Tensor, ""]
    second: Float[Tensor, "rank rank"] | None


class FrechetReward(EncodedSetReward[FrechetState]):
    """Minus the squared Fréchet distance of a set to a reference: FID of pictures, FAD of sounds, by the encoder.

    Range: (-inf, 0], in squared units of the features; 0 is the reference's own mean and covariance. One value for a set.
    A small set is far from any reference by its size alone: compare sets of one size. Needs 2 samples; no prompt.
    Differentiable: no (`functional.frechet_distance` is).
    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium";
    Bai et al. 2025, "DRAGON: Distributional Rewards Optimize Diffusion Generative Models", for its use as a reward.
    """

    least = 2

    def __init__(self, reference: Gaussian, *, encoder: Encoder | None = None) -> None:
        self.encoder = encoder or PixelEncoder()
        mean, cov = reference.mean.to("cpu", torch.float64), reference.cov.to("cpu", torch.float64)
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise ShapeError(f"reference: must have mean [d] and cov [d, d], got {list(mean.shape)}, {list(cov.shape)}")
        self.reference = Gaussian(mean, cov, reference.size)
        self._factor = covariance_factor(cov)
        digest = hashlib.sha256(mean.numpy().tobytes() + cov.contiguous().numpy().tobytes()).hexdigest()
        self.spec = frechet_spec(self.encoder.media, f"-{self.encoder.name}{self.encoder.version}-{digest[:12]}")

    def refuse(self, row: Float[Tensor, " features"]) -> str | None:
        width = len(self.reference.mean)
        return None if len(row) == width else f"it has {len(row)} features, the reference {width}"

    def start(self, features: Float[Tensor, "samples features"]) -> FrechetState:
        rows = checked_rows(features, "frechet", self.least, len(self.reference.mean)) - self.reference.mean
        along = rows @ self._factor
        second = along.T @ along if len(rows) > along.shape[1] else None
        return FrechetState(rows, rows.sum(0), rows.square().sum(), second)

    def value(self, state: FrechetState) -> float:
        count = len(state.rows)
        mean = state.total / count
        apart = mean.square().sum()
        own = (state.squares - count * apart) / (count - 1)
        along = mean @ self._factor
        if state.second is None:
            root = torch.linalg.svdvals(state.rows @ self._factor - along).sum() / math.sqrt(count - 1)
        else:  # the eigenvalues of A^T cov A, with the reference's covariance A A^T
            values = torch.linalg.eigvalsh((state.second - count * torch.outer(along, along)) / (count - 1))
            root = values.clamp(min=0).sqrt().sum()
        return min(0.0, -float(apart + own + self.reference.cov.trace() - 2 * root))

    def swap(self, state: FrechetState, place: int, row: Float[Tensor, " features"]) -> FrechetState:
        new = checked_rows(row[None], "frechet", 1, len(self.reference.mean))[0] - self.reference.mean
        old, rows = state.rows[place], state.rows.clone()
        rows[place] = new
        second = state.second
        if second is not None:
            came, went = new @ self._factor, old @ self._factor
            second = second + torch.outer(came, came) - torch.outer(went, went)
        squares = state.squares + new.square().sum() - old.square().sum()
        return replace(state, rows=rows, total=state.total + new - old, squares=squares, second=second)


def frechet_spec(media: Literal["image", "video", "audio", "features"] = "image", more: str = "") -> RewardSpec:
    """What the number means; `more` joins the version."""
    return RewardSpec(
        name="frechet",
        version=f"1{more}",
        media=media,
        level="set_to_set",
        unit="squared features",
        range=(-math.inf, 0.0),
        differentiable=False,
        licence="Apache-2.0; that of the reference set is its owner's",
        needs=(),
        source='Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule [...]"; Bai et al. 2025, "DRAGON"',
    )
