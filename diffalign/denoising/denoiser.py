"""The network as every other room sees it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diffalign.denoising.prediction import Prediction
from diffalign.denoising.process import Process
from diffalign.types import Condition


@runtime_checkable
class Denoiser(Protocol):
    """A network with its conventions declared. `t` is process time; any rescaling is the adapter's business."""

    @property
    def process(self) -> Process: ...

    @property
    def prediction(self) -> Prediction: ...

    def __call__(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]: ...
