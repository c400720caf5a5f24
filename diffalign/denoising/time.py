"""How training times are drawn. Every sampler is a callable (shape, generator=, device=) -> t in [0, 1], float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising.process import VP, Process


@runtime_checkable
class SampleTime(Protocol):
    def __call__(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str
    ) -> Float[Tensor, "..."]: ...


def uniform_time(
    shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Float[Tensor, "..."]:
    """Uniform on [0, 1)."""
    return torch.rand(shape, generator=generator, device=device)


def shift_time(t: Float[Tensor, "*shape"], shift: float) -> Float[Tensor, "*shape"]:
    """t -> shift t / (1 + (shift - 1) t): more noise for shift > 1 (SD3, section 5.3.2)."""
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class ShiftedTime:
    """Uniform, then shifted."""

    shift: float

    def __call__(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "..."]:
        return shift_time(uniform_time(shape, generator=generator, device=device), self.shift)


@dataclass(frozen=True)
class LogitNormalTime:
    """sigmoid(normal(mean, std)), then shifted (SD3, section 3.1)."""

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def __call__(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "..."]:
        normal = torch.randn(shape, generator=generator, device=device)
        return shift_time(torch.sigmoid(self.mean + self.std * normal), self.shift)


@dataclass(frozen=True)
class GridTime:
    """Uniform over the entries first..last of a table of `entries` times (i + 1) / entries.

    Attributes:
        entries: length of the table (1000 for Stable Diffusion).
        first, last: the part of it that is drawn from, both inclusive; None is the last entry.
    """

    entries: int
    first: int = 0
    last: int | None = None

    def __call__(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "..."]:
        end = self.entries if self.last is None else self.last + 1
        index = torch.randint(self.first, end, shape, generator=generator, device=device)
        return (index + 1).float() / self.entries


@dataclass(frozen=True)
class StratifiedTime:
    """One draw in each of `strata` equal parts of [0, 1), or of a table of `entries` times.

    Called, it gives shape[0] draws (which must be `strata`) in random order of the strata. `stratum(k)` draws from part
    k alone: a trainer that seeds each group by itself gives group number k of a step the k-th part.
    """

    strata: int
    entries: int | None = None

    def __call__(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "..."]:
        if shape[0] != self.strata:
            raise ValueError(f"{shape[0]} draws asked of {self.strata} strata; one draw in each is what they are for")
        part = torch.randperm(self.strata, generator=generator, device=device).reshape(-1, *(1,) * (len(shape) - 1))
        return self._place(part + uniform_time(shape, generator=generator, device=device))

    def stratum(self, part: int) -> SampleTime:
        """A sampler that draws in one part of the times alone: number `part` modulo `strata`, counted from data.

        Its draws do not depend on those of other parts.
        """

        def draw(
            shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
        ) -> Tensor:
            return self._place(part % self.strata + uniform_time(shape, generator=generator, device=device))

        return draw

    def _place(self, position: Tensor) -> Tensor:
        t = (position / self.strata).clamp(max=1 - 2**-24)  # the last part's sum may round up to 1
        if self.entries is None:
            return t
        return ((t * self.entries).floor().clamp(max=self.entries - 1) + 1) / self.entries


def default_time(process: Process) -> SampleTime:
    """Uniform over the grid of a process that has one, else over [0, 1)."""
    return GridTime(process.entries) if isinstance(process, VP) else uniform_time
