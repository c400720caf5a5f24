"""One step of a sampler, inverted: estimates of the sample at its upper end, each asked for at the one before.

Source: Garibi et al. 2024, "ReNoise: Real Image Inversion Through Iterative Noising"; src/renoise_inversion.py and the
schedulers of garibida/ReNoise-Inversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.denoising import Denoiser, Prediction, split_prediction
from diffalign.denoising.process import coefficients_at
from diffalign.exceptions import ConfigError
from diffalign.samplers.ddim import DDIM
from diffalign.samplers.renoise_regularise import Regularise, regularise
from diffalign.types import Condition

EARLY = 0.251  # process time of timestep 250 of Stable Diffusion's 1000


@dataclass(frozen=True)
class Average:
    """Which passes' predictions are averaged for the last estimate of a step: [first, end), None is open.

    Attributes:
        early: at times below `EARLY`.
        late: above. A window that the passes do not reach leaves the last pass's own estimate.
        early_passes: at most so many ReNoise passes at times below `EARLY`.
    """

    early: tuple[int, int | None] = (0, None)
    late: tuple[int, int | None] = (0, None)
    early_passes: int | None = None


EVERY_PASS = Average()  # SmPO: the mean of the first estimate and the re-estimates
WINDOWS = Average((0, 5), (8, 10), 5)  # ReNoise's, for its 9 passes


@dataclass(frozen=True)
class ReNoise:
    """How one step of a sampler is inverted. The defaults are SmPO's; `ReNoise(passes=0)` is plain DDIM inversion.

    Attributes:
        passes: how often the prediction is made again at the sample that it led to (the paper's K).
        average: what is averaged; None: the last pass's prediction is taken. ReNoise's own is `WINDOWS` with 9 passes.
        regularise: pulls predictions of the averaged passes (without an average: of all but the first) and their mean
            towards real noise; None: nothing is done. Needs generators.
        eta: of the DDIM sampler that is inverted. Above 0 it adds noise, which is drawn first and kept (`Inversion.noise`).
        correct_noise: moves that noise, after each step, towards the one with which the sampler's step comes back.
    """

    passes: int = 1
    average: Average | None = EVERY_PASS
    regularise: Regularise | None = None
    eta: float = 0.0
    correct_noise: bool = False

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise ConfigError(f"passes: must be at least 0 (plain DDIM inversion), got {self.passes}")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta: must be from 0 to 1, got {self.eta:g}")
        if self.correct_noise and self.eta == 0:
            raise ConfigError(
                "correct_noise: corrects the noise that a stochastic sampler adds, and with eta 0 DDIM adds none; "
                "set eta above 0, or correct_noise to false"
            )


Window = tuple[int, int | None] | None


@dataclass(frozen=True)
class Ask:
    """The network, asked about some rows of the batch."""

    denoiser: Denoiser
    condition: Condition
    max_batch: int | None

    def rows(self, rows: Tensor) -> Ask:
        return Ask(self.denoiser, self.condition[rows], self.max_batch)

    def __call__(self, x: Tensor, told: Tensor) -> Tensor:
        size = self.max_batch or len(x)
        parts = [slice(start, start + size) for start in range(0, len(x), size)]
        answers = [self.denoiser(x[part], told[part], self.condition[part]) for part in parts]
        return torch.cat(answers).to(x.dtype)


@dataclass(frozen=True)
class Optimal:
    """What regularised noise is to be like."""

    noise: Tensor
    settings: Regularise
    generators: Sequence[torch.Generator]

    def change(self, noise: Tensor) -> Tensor:
        """What regularising adds to it."""
        return regularise(noise, self.noise, self.settings, self.generators) - noise


def inverse_step(
    step: InverseStep, ask: Ask, told: Tensor, passes: int, window: Window, optimal: Optimal | None
) -> Tensor:
    """The sample at the end of one step: its estimates, one after the other, and the one of their mean."""
    x = step.x
    first, end = (1, None) if window is None else window  # without an average all but the first pass are regularised
    averaged: list[tuple[Tensor, Tensor | None]] = []
    for number in range(passes + 1):
        output = ask(x, told)
        direction = step.direction(output, x)
        noise = None if optimal is None else step.noise_of(output, x)
        if window is not None and number >= first and (end is None or number < end):
            averaged.append((direction, noise))
        x = step.end(direction)
        if optimal is not None and noise is not None and number >= first:
            x = x + step.per_noise * optimal.change(noise)
    if not averaged:
        return x
    x = step.end(torch.stack([direction for direction, _ in averaged]).mean(0))
    if optimal is not None:
        x = x + step.per_noise * optimal.change(torch.stack([each for _, each in averaged if each is not None]).mean(0))
    return x


class InverseStep:
    """DDIM's step from u down to s, read backwards: linear in the sample at s and in a prediction at u.

    The prediction ("direction") is held in the network's own type, but a SAMPLE prediction in FLOW, since the clean sample
    alone does not say which noise is at u. With target = a x0 + b noise, D = alpha b - a sigma, and the share k of the
    noise at s that comes from u (sigma_s at eta 0):

        x_u = (D x_s - (k alpha_u - alpha_s sigma_u) prediction) / (alpha_s b - k a)

    For NOISE this is the authors' inv_step, for FLOW on a linear flow Euler's step backwards; nothing is divided by an
    alpha_u of 0.
    """

    def __init__(self, denoiser: Denoiser, x: Tensor, start: Tensor, end: Tensor, eta: float) -> None:
        self.x = x
        self._process, self._end = denoiser.process, end
        self._prediction = denoiser.prediction
        self._held = Prediction.FLOW if denoiser.prediction is Prediction.SAMPLE else denoiser.prediction
        self._alpha, self._sigma = (each.to(x.dtype) for each in coefficients_at(self._process, end, x.ndim))
        self._alpha_s, sigma_s = (each.to(x.dtype) for each in coefficients_at(self._process, start, x.ndim))
        kept = self._alpha * sigma_s / (self._alpha_s * self._sigma)
        self._std = eta * sigma_s * (1 - kept**2).clamp(min=0).sqrt()
        self._k = (sigma_s**2 - self._std**2).clamp(min=0).sqrt()
        # what a change of the predicted noise does to the sample
        self.per_noise = self._sigma - self._alpha * self._k / self._alpha_s

    def take_away(self, noise: Tensor) -> None:
        """The noise that the sampler's step adds."""
        self.x = self.x - self._std * noise

    def direction(self, output: Tensor, x: Tensor) -> Tensor:
        if self._held is self._prediction:
            return output
        x0, noise = split_prediction(self._process, self._prediction, output, x, self._end)
        return noise - x0

    def noise_of(self, output: Tensor, x: Tensor) -> Tensor:
        return split_prediction(self._process, self._prediction, output, x, self._end)[1]

    def end(self, direction: Tensor) -> Tensor:
        a, b = self._held.coefficients(self._alpha, self._sigma, self._process.sigma_data)
        scale = self._alpha * b - a * self._sigma
        moved = self._k * self._alpha - self._alpha_s * self._sigma
        return (scale * self.x - moved * direction) / (self._alpha_s * b - self._k * a)


_CORRECTIONS, _CORRECTION = 10, 1.8  # the authors': L2 length of a correction, and how many


def corrected_noise(
    noise: Tensor, x_end: Tensor, x: Tensor, start: Tensor, end: Tensor, ask: Ask, eta: float
) -> Tensor:
    """Moved, 1.8 at a time, towards the noise with which the sampler's step from x_end comes back to x.

    Source: step_and_update_noise of the authors' euler_scheduler.py; at most 18 in all, and to and fro once it is nearer.
    """
    step = DDIM(eta).step(_Answers(ask), x_end, end, start, ask.condition)
    wanted = torch.where(step.std > 0, (x - step.mean) / step.std, noise)
    for _ in range(_CORRECTIONS):
        away = noise - wanted
        length = away.flatten(1).norm(dim=1).reshape(-1, *(1,) * (away.ndim - 1))
        noise = noise - torch.where(length > 0, _CORRECTION * away / length, torch.zeros_like(away))
    return noise


class _Answers:
    """The asked network as a denoiser, so that a sampler's step keeps to its chunks."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.process, self.prediction = ask.denoiser.process, ask.denoiser.prediction

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self._ask(x_t, t)
