"""fp16's loss scale: an optimizer step whose gradients overflow is passed over, and the scale is lowered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffalign.exceptions import DivergenceError

_MOST_IN_A_ROW = 20  # the scale starts at 2^16 and is halved each time: it is below 1 by then


class LossScale:
    """Counts the steps that the gradient scaler passed over; without a scaler (bf16, fp32) there are none.

    Attributes:
        skipped: steps passed over so far.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self.skipped = 0
        self._in_a_row = 0
        self._scaler = scaler

    def note(self, step: int, record_ids: Sequence[str], *, skipped: bool) -> None:
        """Count a step.

        Raises:
            DivergenceError: too many in a row were passed over.
        """
        self.skipped += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= _MOST_IN_A_ROW:
            shown = ", ".join(record_ids[:8]) + (", ..." if len(record_ids) > 8 else "")
            raise DivergenceError(
                f"step {step}: the last {self._in_a_row} steps were passed over because their gradients are not finite in "
                f"fp16, even at loss_scale {self.figures()['loss_scale']:g}; records of this step: {shown}. Set "
                "training.mixed_precision to bf16 or no; the last checkpoint is unharmed"
            )

    def figures(self) -> dict[str, float]:
        """For the log."""
        if self._scaler is None:
            return {}
        return {"loss_scale": float(self._scaler.get_scale()), "skipped_steps": float(self.skipped)}

    def state(self) -> dict[str, Any] | None:
        if self._scaler is None:
            return None
        return {"scaler": self._scaler.state_dict(), "skipped": self.skipped, "in_a_row": self._in_a_row}

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None and self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
            self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
