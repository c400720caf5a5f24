"""Of rewards with gradients: do they agree with differences of the reward, and does the reward with its own `score`?"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffalign.rewards.selftest_checks import TestFailure

# lengths along the gradient: too long ones leave its reach, too short ones drown in rounding
_STEPS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_DIFFERENCE = 0.05  # of the slope along the gradient, by its length
_DRIFT = 0.05  # of score_tensor from score, of the largest value: tensors are not scaled and rounded as Pillow does


@runtime_checkable
class Differentiable(Protocol):
    """A reward that carries gradients to pictures [batch, 3, height, width] in [0, 1], beside prompts or references."""

    def score_tensor(self, pictures: Tensor, beside: Any, /) -> Tensor: ...


def check_gradient(reward: Differentiable, pictures: Tensor, beside: Any) -> str:
    """The slope along the gradient of the summed reward is the gradient's length, and each picture has its own."""
    inputs = pictures.clone().requires_grad_(True)
    values = reward.score_tensor(inputs, beside)
    if values.shape != (len(pictures),):
        raise TestFailure(f"score_tensor gives {list(values.shape)} for {len(pictures)} pictures")
    (gradient,) = torch.autograd.grad(values.sum(), inputs)
    if not bool(gradient.isfinite().all()):
        raise TestFailure("the gradient is not finite")
    lengths = gradient.flatten(1).norm(dim=1)
    if not bool((lengths > 0).all()):
        raise TestFailure("the gradient of a picture is 0")
    (first,) = torch.autograd.grad(reward.score_tensor(inputs, beside)[0], inputs)
    if bool(first[1:].any()):
        raise TestFailure("the reward of one picture depends on another one")
    along = gradient / lengths[:, None, None, None]
    best = torch.full_like(lengths, torch.inf)
    with torch.no_grad():
        for step in _STEPS:
            above, below = (reward.score_tensor(pictures + sign * step * along, beside) for sign in (1, -1))
            best = torch.minimum(best, ((above - below) / (2 * step) / lengths - 1).abs())
    if not bool((best <= _DIFFERENCE).all()):
        raise TestFailure(f"slopes along the gradient differ from its length by {best.max():.1%}")
    return f"slopes along it differ from its length by {best.max():.2%} at most"


def check_tensor(reward: Differentiable, pictures: Tensor, beside: Any, values: Tensor) -> str:
    """`score_tensor` says about what `score` says."""
    with torch.no_grad():
        seen = reward.score_tensor(pictures, beside).cpu()
    scored = values.isfinite()
    apart = float((seen - values)[scored].abs().max())
    limit = _DRIFT * max(float(values[scored].abs().max()), 1e-6)
    if not apart <= limit:
        raise TestFailure(f"differs from score by up to {apart:.3g}, and may by {limit:.3g}")
    return f"differs from score by {apart:.2g} at most"
