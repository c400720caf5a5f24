"""Numbers recorded in float64 from the paper's formulas, written independently of this package.

Source: the method notes on SmPO-Diffusion (section 9: scores, preferences and losses; the authors' train.py, with the
DDIMInverseScheduler of diffusers 0.21 and of 0.22 and later; src/renoise_inversion.py of ReNoise). Six digits each.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diffalign.denoising import VP, Prediction
from diffalign.objectives import smoothed_preference, smpo
from diffalign.objectives.smpo import PICKSCORE_RANGE
from diffalign.samplers import WINDOWS, ReNoise, invert, invert_along, inverted_draw
from diffalign.samplers.renoise_regularise import patch_kl
from diffalign.samplers.renoise_route import route_to
from diffalign.types import Condition
from tests.denoising.toys import Fixed
from tests.parity.test_dpo_cards import POLICY, REFERENCE

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
STABLE_DIFFUSION = VP(torch.cumprod(1 - BETAS, 0))
NOTHING = Condition({})
SCORES = torch.tensor([[0.2231, 0.2104], [0.2187, 0.2179], [0.2410, 0.1985], [0.2050, 0.2049]], dtype=torch.float64)
LOW, HIGH = PICKSCORE_RANGE


def _six(found: Tensor, expected: list[float] | float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


def test_preferences_and_factors():
    preference = smoothed_preference(SCORES, low=LOW, high=HIGH)
    _six(preference, [0.519051, 0.501201, 0.563439, 0.500150])
    factor = 10 * (2 * preference - 1)
    _six(factor, [0.381013, 0.024012, 1.268785, 0.003002])
    gap = (SCORES[:, 0] - SCORES[:, 1]) / (HIGH - LOW)
    torch.testing.assert_close(factor, 10 * torch.tanh(gap / 2))


def test_a_gap_of_a_hundredth():
    preference = smoothed_preference(torch.tensor([[0.21, 0.20]], dtype=torch.float64), low=LOW, high=HIGH)
    _six(preference, [0.515003])
    _six(10 * (2 * preference - 1), [0.300065])


def test_largest_factor():
    preference = smoothed_preference(torch.tensor([[HIGH, LOW]], dtype=torch.float64), low=LOW, high=HIGH)
    assert (10 * (2 * preference - 1)).item() == pytest.approx(4.6212, abs=6e-5)


def test_losses():
    preference = smoothed_preference(SCORES, low=LOW, high=HIGH)
    output = smpo(POLICY, reference=REFERENCE, preference=preference, beta=5000.0, scale=10.0)
    _six(output.loss, [0.414334, 0.702192, 2.042151, 0.691273])
    _six(output.loss.mean(), 0.962488)


def test_losses_of_the_authors_code():
    """It multiplies every pair of the batch by the first pair's factor."""
    first = smoothed_preference(SCORES, low=LOW, high=HIGH)[:1].expand(4)
    output = smpo(POLICY, reference=REFERENCE, preference=first, beta=5000.0, scale=10.0)
    _six(output.loss.mean(), 0.690707)


# ------------------------------------------------------------ inversion


class Toy:
    """The notes' network: tanh(x) (max(timestep, 0) + 1) / 1000; it keeps the timesteps that it is told."""

    process, prediction = STABLE_DIFFUSION, Prediction.NOISE

    def __init__(self) -> None:
        self.told: list[float] = []

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        index = self.process.index(t).double()
        self.told.append(index[0].item())
        return torch.tanh(x_t) * (index.clamp(min=0) + 1).reshape(-1, 1) / 1000


X0 = torch.tensor([[0.8, -0.5, 0.3, -1.2]], dtype=torch.float64)
OLD_650 = ([0.402194, -0.258732, 0.157362, -0.576082], [0.136683, -0.093261, 0.058216, -0.176068])
NEW_650 = ([0.520349, -0.336937, 0.205708, -0.740243], [0.262429, -0.176490, 0.109668, -0.350777])


def _time(*index: float) -> Tensor:
    return STABLE_DIFFUSION.time_of(torch.tensor(index))


@pytest.mark.parametrize(("snap", "level", "expected"), [("ceil", 701, OLD_650), ("floor", 601, NEW_650)])
def test_inversion_of_old_and_new_diffusers(snap, level, expected):
    """t_s = 650 on a grid of 10: SmPO's two passes a level, their mean; tau is what the network is to predict."""
    toy = Toy()
    found = invert(toy, X0, NOTHING, _time(650.0), steps=10, snap=snap)
    assert STABLE_DIFFUSION.index(found.level).item() == level
    _six(found.x_t[0], expected[0])
    draw = inverted_draw(Toy(), X0[None], NOTHING, _time(650.0)[None], steps=10, snap=snap)
    _six(draw.noise[0, 0], expected[1])
    # the old one labels a level with where the step came from, the first with a negative timestep
    first = -99 if snap == "ceil" else 1
    assert toy.told == [step for step in range(first, 650, 100) for _ in range(2)]


def test_inversion_that_stops_far_below():
    """t_s = 200 on a grid of 5: the only level below it is 1."""
    draw = inverted_draw(Toy(), X0[None], NOTHING, _time(200.0)[None], steps=5, snap="floor")
    _six(draw.noise[0, 0], [0.211872, -0.132422, 0.079454, -0.317799])


@pytest.mark.parametrize(
    ("snap", "steps", "mean", "least", "most"),
    [
        ("ceil", 5, 59.9, -198, 199),
        ("ceil", 10, 39.7, None, None),
        ("floor", 5, -100.1, -200, None),
        ("floor", 10, -50.3, None, None),
        ("exact", 10, 0.0, 0, 0),
    ],
)
def test_levels_against_the_times_asked_for(snap, steps, mean, least, most):
    """Level minus t_s over all timesteps; without any step (new, t_s of 0 and 1) the level is the table's first entry."""
    asked = torch.arange(1000.0)
    route = route_to(STABLE_DIFFUSION, STABLE_DIFFUSION.time_of(asked), steps, snap)
    gap = STABLE_DIFFUSION.index(route.levels[-1]) - asked
    assert gap.mean().item() == pytest.approx(mean, abs=0.06)
    assert least is None or gap.min().item() == least
    assert most is None or gap.max().item() == most


@pytest.mark.parametrize(
    ("index", "snap", "steps", "of_x0", "of_noise"),
    [(650.0, "ceil", 10, -0.0596, 1.0197), (2.0, "ceil", 5, -2.597, 9.836), (200.0, "floor", 5, 0.264, 0.083)],
)
def test_what_a_perfect_network_is_asked_to_predict(index, snap, steps, of_x0, of_noise):
    """A network that says the same noise everywhere inverts to it exactly, but at another level than the label's."""
    x0, noise = torch.eye(2, dtype=torch.float64)  # apart, so that each one's share can be read
    start = STABLE_DIFFUSION.sigma(_time(0.0)) * noise + STABLE_DIFFUSION.alpha(_time(0.0)) * x0
    level = invert(_says(noise), start[None], NOTHING, _time(index), steps=steps, snap=snap)
    t = _time(index)
    tau = (level.x_t[0] - STABLE_DIFFUSION.alpha(t) * x0) / STABLE_DIFFUSION.sigma(t)
    assert tau.tolist() == pytest.approx([of_x0, of_noise], abs=6e-4)


def test_one_ddim_inversion_step():
    """z_prev = 0.7, e = 0.3, from timestep 481 to 501."""
    found = invert_along(
        _says(torch.tensor([0.3], dtype=torch.float64)),
        torch.tensor([[0.7]], dtype=torch.float64),
        NOTHING,
        _time(481.0, 501.0),
        renoise=ReNoise(0),
    )
    _six(found.x_t[0], [0.684084])


@pytest.mark.parametrize(
    ("index", "renoise", "expected"),
    [
        (501.0, ReNoise(0, WINDOWS), 0.684270),
        (501.0, ReNoise(1, WINDOWS), 0.683993),
        (501.0, ReNoise(9, WINDOWS), 0.683988),
        (201.0, ReNoise(9, WINDOWS), 0.691167),  # cut to 5 passes
    ],
)
def test_renoise_passes_and_windows(index, renoise, expected):
    start = torch.tensor([[0.7]], dtype=torch.float64)
    found = invert_along(Toy(), start, NOTHING, _time(index - 20, index), renoise=renoise)
    _six(found.x_t[0], [expected])


def test_patch_kl():
    drawn = np.random.RandomState(0)
    first, second = (torch.from_numpy(drawn.randn(1, 4, 8, 8)) for _ in range(2))
    _six(patch_kl(first, second), [5.587099])


def _says(noise: Tensor) -> Fixed:
    return Fixed(STABLE_DIFFUSION, Prediction.NOISE, noise)
