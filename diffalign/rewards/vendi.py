"""Vendi: how many different samples a set holds in effect. Counters the loss of diversity that other rewards bring."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.rewards.encoders import Encoder, PixelEncoder
from diffalign.rewards.protocol import RewardSpec
from diffalign.rewards.set_functional import unit_rows, vendi_of_eigenvalues
from diffalign.rewards.set_protocol import EncodedSetReward, checked_rows

_NO_LENGTH = 1e-9  # of a row without direction, beside its largest feature: what rounding leaves


@dataclass(frozen=True)
class VendiState:
    """A set, as `VendiReward` sees it.

    Attributes:
        rows: features of length 1.
        products: rows rows^T [samples, samples], or rows^T rows [features, features], whichever is smaller.
    """

    rows: Float[Tensor, "samples features"]
    products: Float[Tensor, "side side"]


class VendiReward(EncodedSetReward[VendiState]):
    """Vendi score of a set: exp of the entropy of the eigenvalues of its likeness matrix over n.

    Range: 1 (all alike) to the number of samples (no two alike). Compare sets of one size. One value for a set.
    Likeness is the correlation of two samples' features (their cosine, after each lost its own mean), or the plain
    cosine as in the paper's examples: of pictures' pixels that sees little but the common background. Needs no
    reference and no prompt. Differentiable: no (`functional.vendi_score_of` is).
    Source: Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning".
    """

    def __init__(
        self,
        *,
        encoder: Encoder | None = None,
        q: float | int = 1.0,
        kernel: Literal["correlation", "cosine"] = "correlation",
    ) -> None:
        if kernel not in ("correlation", "cosine"):
            raise ConfigError(f"vendi.kernel: must be 'correlation' or 'cosine', got {kernel!r}")
        if not q >= 0:
            raise ConfigError(f"vendi.q: must be >= 0, got {q:g}")
        self.encoder = encoder or PixelEncoder()
        self.q, self.kernel = q, kernel
        self.spec = RewardSpec(
            name="vendi",
            version=f"1-{self.encoder.name}{self.encoder.version}-{kernel}-q{q:g}",
            media=self.encoder.media,
            level="set",
            unit="samples",
            range=(1.0, math.inf),
            differentiable=False,
            licence="Apache-2.0",
            needs=(),
            source='Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning"',
        )

    def refuse(self, row: Float[Tensor, " features"]) -> str | None:
        if bool(self._centred(row[None]).any()):
            return None
        return "all its features are equal: it is like and unlike nothing" if self.kernel == "correlation" else (
            "all its features are 0: it has no direction"
        )  # fmt: skip

    def start(self, features: Float[Tensor, "samples features"]) -> VendiState:
        rows = unit_rows(self._centred(checked_rows(features, "vendi", self.least)))
        return VendiState(rows, rows.T @ rows if rows.shape[1] < len(rows) else rows @ rows.T)

    def value(self, state: VendiState) -> float:
        return float(vendi_of_eigenvalues(torch.linalg.eigvalsh(state.products / len(state.rows)), self.q))

    def swap(self, state: VendiState, place: int, row: Float[Tensor, " features"]) -> VendiState:
        new = unit_rows(self._centred(checked_rows(row[None], "vendi", 1, state.rows.shape[1])))[0]
        rows, products = state.rows.clone(), state.products.clone()
        if rows.shape[1] < len(rows):
            products += torch.outer(new, new) - torch.outer(rows[place], rows[place])
            rows[place] = new
        else:
            rows[place] = new
            products[place] = products[:, place] = rows @ new
        return replace(state, rows=rows, products=products)

    def _centred(self, rows: Float[Tensor, "samples features"]) -> Float[Tensor, "samples features"]:
        """What the cosines are taken of; rows that have no direction are exactly 0."""
        apart = rows - rows.mean(1, keepdim=True) if self.kernel == "correlation" else rows
        least = _NO_LENGTH * rows.abs().amax(1, keepdim=True)
        return apart.where(apart.abs().amax(1, keepdim=True) > least, 0.0)
