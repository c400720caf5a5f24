"""What every objective returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """A loss per group, not averaged, and detached figures for the log.

    Attributes:
        loss: [groups], with gradient.
        metrics: name -> detached scalar, a mean over the groups.
    """

    loss: Float[Tensor, " groups"]
    metrics: dict[str, Float[Tensor, ""]]

    @property
    def bad_groups(self) -> Int[Tensor, ""]:
        """How many groups have a loss that is not finite, detached: a NaN or an infinity spoils its own group alone."""
        return (~self.loss.detach().isfinite()).sum()
