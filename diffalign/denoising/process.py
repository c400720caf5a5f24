"""Noising processes: how clean samples and noise are mixed at a time t in [0, 1], where 0 is data and 1 is noise.

Every process is two functions of time, x_t = alpha(t) x0 + sigma(t) noise. Times and both functions are float32 or
wider, whatever the dtype of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


@runtime_checkable
class Process(Protocol):
    """x_t = alpha(t) x0 + sigma(t) noise."""

    @property
    def grid(self) -> Float[Tensor, " entries"] | None:
        """The times that the network was trained on, ascending; None when it was trained on all of (0, 1)."""

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data, for the EDM prediction."""

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What the clean sample is multiplied by at t in [0, 1]: 1 at t = 0 and never rising, in at least float32."""

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What unit noise is multiplied by at t in [0, 1], never falling, in at least float32."""


def add_noise(
    process: Process,
    x0: Float[Tensor, "batch *sample"],
    noise: Float[Tensor, "batch *sample"],
    t: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *sample"]:
    """x_t, in at least float32."""
    alpha, sigma = coefficients_at(process, t, x0.ndim)
    return alpha * x0 + sigma * noise


def coefficients_at(process: Process, t: Float[Tensor, " batch"], ndim: int) -> tuple[Tensor, Tensor]:
    """alpha(t) and sigma(t), shaped [batch, 1, ...] to go with samples of `ndim` dimensions."""
    shape = (-1,) + (1,) * (ndim - 1)
    return process.alpha(t).reshape(shape), process.sigma(t).reshape(shape)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


@dataclass(frozen=True)
class LinearFlow:
    """x_t = (1 - t) x0 + t noise; the velocity is noise - x0 (rectified flow, SD3, FLUX).

    Attributes:
        shift: the time shift that the checkpoint was made for (SD3: 3). x_t does not depend on it; samplers place
            their steps with it and training times may be drawn with it.
    """

    shift: float = 1.0
    sigma_data: float = 1.0

    @property
    def grid(self) -> None:
        return None

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - _wide(t)

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _wide(t)


@dataclass(frozen=True)
class EDM:
    """x_t = x0 + sigma noise, with sigma from `sigma_min` (t = 0) to `sigma_max` (t = 1) by Karras et al. 2022, eq 5."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5

    @property
    def grid(self) -> None:
        return None

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.ones_like(_wide(t))

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + _wide(t) * (high - low)) ** self.rho

    def time_of(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The inverse of `sigma`."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (_wide(sigma) ** (1 / self.rho) - low) / (high - low)


@dataclass(frozen=True, eq=False)  # tables have no single answer to ==
class VP:
    """A variance-preserving process given by a table of T entries: alpha^2 + sigma^2 = 1.

    Grid times are t_i = (i + 1) / T, where alpha(t_i) = sqrt(abar_i) to the bit and alpha(0) = 1. Between them the angle
    atan2(sigma, alpha) is interpolated, which stays finite when the last entry has no signal (zero-terminal SNR).

    Attributes:
        alphas_cumprod: abar_i [T], descending, in [0, 1].
    """

    alphas_cumprod: Float[Tensor, " entries"]
    sigma_data: float = 1.0
    _alpha: Tensor = field(init=False, repr=False)
    _sigma: Tensor = field(init=False, repr=False)
    _angle: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        bars = self.alphas_cumprod.detach().cpu()
        bars = bars.to(torch.promote_types(bars.dtype, torch.float32))
        ends = torch.ones(1, dtype=bars.dtype)
        # square roots in the table's own dtype, as diffusers' add_noise takes them
        alpha, sigma = torch.cat([ends, bars.sqrt()]), torch.cat([ends - 1, (1 - bars).sqrt()])
        object.__setattr__(self, "_alpha", alpha)
        object.__setattr__(self, "_sigma", sigma)
        object.__setattr__(self, "_angle", torch.atan2(sigma.double(), alpha.double()))

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, Any]) -> VP:
        """Read a diffusers scheduler's config: a table of betas or one of `BETA_SCHEDULES`.

        Rescaled to zero-terminal SNR if `rescale_betas_zero_snr` is set. A loaded scheduler of another schedule (DDPM's
        "laplace") has its table: `VP(scheduler.alphas_cumprod)`.

        Raises:
            ConfigError: another schedule.
        """
        if config.get("trained_betas") is not None:
            betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
        else:
            betas = _betas(config["beta_schedule"], config)
        bars = torch.cumprod(1 - betas, dim=0)
        return cls(rescale_zero_terminal_snr(bars) if config.get("rescale_betas_zero_snr") else bars)

    @property
    def entries(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def grid(self) -> Float[Tensor, " entries"]:
        return torch.arange(1, self.entries + 1, dtype=torch.float32) / self.entries

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._look_up(t, self._alpha, torch.cos)

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._look_up(t, self._sigma, torch.sin)

    def index(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What the network is fed: round(tT) - 1 on the grid (a whole number), tT - 1 off it."""
        position, nearest, on_grid = self._position(t)
        return (torch.where(on_grid, nearest, position) - 1).to(_wide(t).dtype).to(t.device)

    def time_of(self, index: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The inverse of `index`."""
        return ((index.double() + 1) / self.entries).float()

    def _position(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t T in float64, its nearest whole number, and whether t is that grid time up to its own rounding."""
        position = (t.cpu() if t.device.type == "mps" else t).double() * self.entries  # MPS has no float64
        nearest = position.round()
        tolerance = 2 * self.entries * torch.finfo(_wide(t).dtype).eps
        return position, nearest, (position - nearest).abs() <= tolerance

    def _look_up(self, t: Tensor, table: Tensor, of_angle: Any) -> Tensor:
        position, nearest, on_grid = self._position(t)
        position = position.clamp(0, self.entries)
        low = position.floor().clamp(max=self.entries - 1).long()
        angle = self._angle.to(position.device)
        between = of_angle(torch.lerp(angle[low], angle[low + 1], position - low))
        exact = table.to(position.device)[nearest.clamp(0, self.entries).long()]
        dtype = torch.promote_types(_wide(t).dtype, table.dtype)
        return torch.where(on_grid, exact.to(between.dtype), between).to(dtype).to(t.device)


def rescale_zero_terminal_snr(alphas_cumprod: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
    """Shift and scale sqrt(abar) so that the last entry is 0 and the first stays (Lin et al. 2023, algorithm 1)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    steps = root**2
    ratios = torch.cat([steps[:1], steps[1:] / steps[:-1]])  # through the betas, as diffusers rounds it
    return torch.cumprod(1 - (1 - ratios), dim=0)


def _betas(schedule: str, config: Mapping[str, Any]) -> Tensor:
    count, start, end = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    if schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    if schedule == "squaredcos_cap_v2":
        at = np.arange(count + 1) / count
        bar = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2
        return torch.tensor(np.minimum(1 - bar[1:] / bar[:-1], 0.999), dtype=torch.float32)
    if schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, count)) * (end - start) + start
    raise ConfigError(f"beta_schedule: must be one of {', '.join(BETA_SCHEDULES)}, got {schedule!r}")
