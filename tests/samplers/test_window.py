"""A window of steps with noise, and where MixGRPO puts it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError, ShapeError
from diffalign.samplers import (
    DPMSolverPP,
    FlowEuler,
    FlowSDE,
    Sampler,
    Windowed,
    rollout,
    step_log_prob,
    window_first,
    window_times,
)
from tests.denoising.toys import Seen, condition_of
from tests.samplers.toys import no_condition

FLOW = LinearFlow()
TIMES = torch.tensor([1.0, 0.9, 0.7, 0.5, 0.2, 0.0])


def _roll(sampler, network=None):
    generators = [torch.Generator().manual_seed(group) for group in range(2)]
    x = torch.stack([torch.randn(3, 4, generator=each) for each in generators])
    network = network or Seen(FLOW, Prediction.FLOW)
    return rollout(network, sampler, condition_of(2), x, TIMES, generators=generators)


@pytest.mark.parametrize(("first", "length"), [(0, 1), (0, 5), (1, 2), (3, 2), (4, 1)])
def test_noise_is_in_the_window_alone(first, length):
    sampler = Windowed.of_steps(FlowSDE(), FlowEuler(), TIMES, first, length)
    trajectory = _roll(sampler)
    expected = [first <= step < first + length for step in range(5)]
    assert isinstance(sampler, Sampler) and trajectory.stochastic.tolist() == expected
    whole = _roll(FlowSDE())
    if first == 0:
        assert torch.equal(trajectory.states[: length + 1], whole.states[: length + 1])
    else:
        assert torch.equal(trajectory.states[: first + 1], _roll(FlowEuler()).states[: first + 1])


def test_steps_of_the_window_are_scored_and_others_not():
    network, sampler = Seen(FLOW, Prediction.FLOW), Windowed.of_steps(FlowSDE(), FlowEuler(), TIMES, 1, 2)
    trajectory = _roll(sampler, network)
    scores = step_log_prob(network, sampler, trajectory, torch.tensor([[1, 2], [2, 1]]))
    assert torch.equal(scores.log_prob[0, 0], trajectory.log_prob[1, 0])
    assert torch.equal(scores.log_prob[0, 1], trajectory.log_prob[2, 1])
    with pytest.raises(ConfigError, match=r"step 0 of Windowed.* is deterministic"):
        step_log_prob(network, sampler, trajectory, [0])


def test_a_multistep_solver_starts_anew_after_the_window():
    """Its first step behind the window is Euler's, and it does not see what was before."""
    network, sampler = Seen(FLOW, Prediction.FLOW), Windowed.of_steps(FlowSDE(), DPMSolverPP(), TIMES, 1, 1)
    trajectory = _roll(sampler, network)
    x, t = trajectory.states[2].flatten(0, 1), TIMES[2]
    euler = FlowEuler().step(network, x, t, TIMES[3], condition_of(2).expand(3))
    torch.testing.assert_close(trajectory.states[3].flatten(0, 1), euler.mean.detach())
    x = trajectory.states[3].flatten(0, 1)
    euler = FlowEuler().step(network, x, TIMES[3], TIMES[4], condition_of(2).expand(3))
    assert not torch.allclose(trajectory.states[4].flatten(0, 1), euler.mean.detach(), atol=1e-4)
    scores = step_log_prob(network, sampler, trajectory, [1])
    assert torch.equal(scores.log_prob[0], trajectory.log_prob[1])


def test_bounds_are_halfway_and_so_safe_from_rounding():
    assert window_times(TIMES, 1, 2) == pytest.approx((0.95, 0.6))
    assert window_times(TIMES, 0, 5) == (float("inf"), pytest.approx(0.1))
    sampler = Windowed.of_steps(FlowSDE(), FlowEuler(), TIMES, 1, 1)
    x, network = torch.zeros(1, 2), Seen(FLOW, Prediction.FLOW)
    for time in (0.9 - 1e-5, 0.9, 0.9 + 1e-5):
        assert sampler.step(network, x, time, 0.7, condition_of(1)).std.item() > 0


def test_a_step_is_on_one_side():
    sampler, x = Windowed(FlowSDE(), FlowEuler(), 0.8, 0.4), torch.zeros(2, 2)
    with pytest.raises(ShapeError, match=r"times from 0.3 to 0.5 lies on both sides of the window from 0.8 to 0.4"):
        sampler.step(
            Seen(FLOW, Prediction.FLOW), x, torch.tensor([0.5, 0.3]), torch.tensor([0.2, 0.1]), no_condition(2)
        )


@pytest.mark.parametrize(("first", "length"), [(-1, 2), (4, 2), (0, 6), (2, 0)])
def test_a_window_lies_within_the_steps(first, length):
    with pytest.raises(ConfigError, match=f"a window of {length} steps from number {first} on does not lie within 5"):
        window_times(TIMES, first, length)


def _places(rounds, schedule="progressive", **settings):
    settings = {"steps": 10, "length": 4, "every": 3} | settings
    return [window_first(number, schedule=schedule, **settings) for number in range(rounds)]


def test_progressive():
    """By hand: 7 places of 4 steps in 10, three rounds at each, then again from the start."""
    assert _places(24) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3 + [6] * 3 + [0] * 3
    assert _places(9, shift=4, every=2) == [0, 0, 4, 4, 0, 0, 4, 4, 0]
    assert _places(24, roll_back=False)[-4:] == [6, 6, 6, 6]
    assert _places(50, shift=0) == [0] * 50


def test_decay():
    """Rounds at place p of 10: floor(10 (1 - p/10) + p/10)."""
    places = _places(50, "decay", every=10)
    assert [places.count(place) for place in range(7)] == [11, 9, 8, 7, 6, 5, 4]  # the 50th is the first again
    assert places == [*sorted(places[:-1]), 0]
    assert _places(4, "decay", every=3, fewest=3) == [0, 0, 0, 1]


def test_exp_decay():
    """5 rounds up to place 13, then ceil(5 exp(-0.1 (p - 13)))."""
    places = _places(98, "exp_decay", every=5, steps=24)
    assert [places.count(place) for place in range(21)] == [5] * 16 + [4, 4, 4, 3, 3]
    assert places == sorted(places)


def test_random_depends_on_seed_and_round_alone():
    found = _places(400, "random")
    assert found == _places(400, "random") != _places(400, "random", seed=1)
    assert sorted(set(found)) == list(range(7))
    assert all(30 < count < 90 for count in Counter(found).values())  # 57 each on average


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 11}, r"length: must be at most the number of steps \(10\), got 11"),
        ({"length": 0}, "length: must be at least 1, got 0"),
        ({"every": 0}, "every: must be at least 1, got 0"),
        ({"shift": -1}, "shift: must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(ConfigError, match=says):
        _places(1, **settings)
