"""At least float32 inside: errors that a preference turns on differ in digits that half precision does not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def at_least_float32(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """Give the function its floating tensors as float32 where they are narrower; float64 stays, for gradcheck.

    Before the first difference: 0.1234 and 0.1235 are one number in bfloat16, a mean of squares loses three digits there,
    and beta times a gap is past float16's largest number.
    """
    call: Callable[..., Output] = function

    @wraps(function)
    def widened(*inputs: Any, **settings: Any) -> Output:
        return call(*map(_widened, inputs), **{name: _widened(value) for name, value in settings.items()})

    return widened


def _widened(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))
