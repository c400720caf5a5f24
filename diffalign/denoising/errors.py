"""The shared primitive: the denoising errors of one or several networks on the same noised samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising.denoiser import Denoiser
from diffalign.denoising.draw import NoiseDraw
from diffalign.denoising.prediction import Prediction, conversion_factor, target_of
from diffalign.denoising.process import add_noise
from diffalign.exceptions import ShapeError
from diffalign.types import Condition


@dataclass(frozen=True)
class DenoisingErrors:
    """Mean squared errors per member, at least float32.

    Attributes:
        policy: [groups, members], with gradient.
        reference: [groups, members], or None.
        t: the process times [groups, members].
        others: errors of further frozen networks, by name.
        residuals: prediction - target of every network by name ("policy", "reference", others), or None.
    """

    policy: Float[Tensor, "groups members"]
    reference: Float[Tensor, "groups members"] | None
    t: Float[Tensor, "groups members"]
    others: dict[str, Float[Tensor, "groups members"]]
    residuals: dict[str, Float[Tensor, "groups members *sample"]] | None


def denoising_errors(
    policy: Denoiser,
    reference: Denoiser | None,
    x0: Float[Tensor, "groups members *sample"],
    condition: Condition,
    draw: NoiseDraw,
    *,
    others: Mapping[str, Denoiser] | None = None,
    measure: Prediction | None = None,
    mask: Tensor | None = None,
    residuals: bool = False,
    max_batch: int | None = None,
) -> DenoisingErrors:
    """Noise x0 once, ask every network once, and compare with the target.

    Args:
        policy: the trained network; its errors carry the gradient.
        reference: the frozen one, run under `no_grad`, or None.
        x0: clean samples or latents.
        condition: leaves [groups, ...]; repeated for the members of a group.
        draw: times and noise; two calls with the same draw agree to the bit.
        others: further frozen networks (behaviour, ema).
        measure: report errors as if the networks predicted this; None: each network's own prediction.
        mask: weights of elements, broadcastable to x0; errors are then weighted means.
        residuals: keep prediction - target too.
        max_batch: samples per network call; None: all groups * members at once.

    Raises:
        ShapeError: draw, mask or condition do not fit x0, the mask is 0 for all of a member, an error cannot be measured
            as asked at some t, or `others` takes the name of policy or reference.
    """
    _check_draw(draw, x0)
    if max_batch is not None and max_batch < 1:
        raise ShapeError(f"max_batch: must be at least 1, got {max_batch}; None is all at once")
    if condition.leaves and len(condition) != len(x0):
        raise ShapeError(f"the condition has {len(condition)} rows for {len(x0)} groups; its leaves are [groups, ...]")
    if taken := {"policy", "reference"} & set(others or {}):
        raise ShapeError(
            f"others: {', '.join(sorted(taken))} is an argument of its own; name a further network otherwise"
        )
    networks: dict[str, Denoiser] = {"policy": policy}
    if reference is not None:
        networks["reference"] = reference
    networks.update(others or {})
    weight = None if mask is None else _flat_mask(mask, x0)
    flat = _Flat(x0, draw, condition.expand(x0.shape[1]))
    kept: dict[str, Tensor] = {}
    errors: dict[str, Tensor] = {}
    for name, network in networks.items():
        with torch.set_grad_enabled(torch.is_grad_enabled() and name == "policy"):
            residual = flat.residual(network, measure, max_batch)
            errors[name] = _mean_square(residual, weight).reshape(x0.shape[:2])
        if residuals:
            kept[name] = residual.reshape(x0.shape)
    return DenoisingErrors(
        policy=errors["policy"],
        reference=errors.get("reference"),
        t=draw.t,
        others={name: errors[name] for name in others or {}},
        residuals=kept if residuals else None,
    )


class _Flat:
    """Groups and members as one batch, in at least float32."""

    def __init__(self, x0: Tensor, draw: NoiseDraw, condition: Condition) -> None:
        wide = torch.promote_types(x0.dtype, torch.float32)
        self.x0 = x0.flatten(0, 1).to(wide)
        self.noise = draw.noise.flatten(0, 1).to(wide)
        self.t = draw.t.flatten()
        self.network_time = self.t if draw.network_time is None else draw.network_time.flatten()
        self.condition = condition
        self._noised: list[tuple[object, Tensor]] = []  # (process, x_t): networks of one process share x_t

    def residual(self, network: Denoiser, measure: Prediction | None, max_batch: int | None) -> Tensor:
        process, prediction = network.process, network.prediction
        x_t = self._x_t(network)
        size = max_batch or len(x_t)
        outputs = [
            network(x_t[start : start + size], self.network_time[start : start + size], self._rows(start, size))
            for start in range(0, len(x_t), size)
        ]
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        if output.shape != x_t.shape:
            raise ShapeError(f"the network answered {tuple(output.shape)} to x_t of shape {tuple(x_t.shape)}")
        target = target_of(process, prediction, self.x0, self.noise, self.t)
        residual = output.to(torch.promote_types(output.dtype, torch.float32)) - target
        if measure is None or measure is prediction:
            return residual
        factor = conversion_factor(process, prediction, measure, self.t)
        return residual * factor.reshape((-1,) + (1,) * (residual.ndim - 1))

    def _rows(self, start: int, size: int) -> Condition:
        return self.condition if size >= len(self.x0) else self.condition[start : start + size]

    def _x_t(self, network: Denoiser) -> Tensor:
        for process, x_t in self._noised:
            if process is network.process:
                return x_t
        x_t = add_noise(network.process, self.x0, self.noise, self.t)
        self._noised.append((network.process, x_t))
        return x_t


def _check_draw(draw: NoiseDraw, x0: Tensor) -> None:
    told = draw.t if draw.network_time is None else draw.network_time
    if draw.t.shape != x0.shape[:2] or told.shape != draw.t.shape or draw.noise.shape != x0.shape:
        raise ShapeError(
            f"x0 has shape {tuple(x0.shape)}, the draw t {tuple(draw.t.shape)}, network_time {tuple(told.shape)} and "
            f"noise {tuple(draw.noise.shape)}; draw with draw_noise(x0, ...)"
        )


def _flat_mask(mask: Tensor, x0: Tensor) -> Tensor:
    try:
        weight = mask.to(torch.promote_types(x0.dtype, torch.float32)).expand(x0.shape)
    except RuntimeError:
        raise ShapeError(f"the mask {tuple(mask.shape)} does not broadcast to x0 {tuple(x0.shape)}") from None
    empty = (weight.flatten(2) == 0).all(2).nonzero().tolist()
    if empty:
        group, member = empty[0]
        raise ShapeError(
            f"the mask is 0 everywhere for member {member} of group {group}"
            f"{f' and {len(empty) - 1} more' if empty[1:] else ''}: a mean over no element has no value; "
            f"leave the member out with `valid` and give it a mask of ones"
        )
    return weight.flatten(0, 1)


def _mean_square(residual: Tensor, weight: Tensor | None) -> Tensor:
    square = residual.square().flatten(1)
    if weight is None:
        return square.mean(1)
    weight = weight.flatten(1)
    return (square * weight).sum(1) / weight.sum(1)
