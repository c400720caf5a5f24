"""From settings to samplers, and where a window lies in a round."""

from __future__ import annotations

import pytest
import torch

from diffalign.config.samplers import (
    DDIMParams,
    DPMSolverPPParams,
    FlowEulerParams,
    FlowHeunParams,
    FlowSDEParams,
    WindowParams,
)
from diffalign.samplers import DDIM, DPMSolverPP, FlowEuler, FlowHeun, FlowSDE, Windowed
from diffalign.training.build_sampler import build_sampler

TIMES = torch.linspace(1, 0.1, 11)


@pytest.mark.parametrize(
    ("params", "sampler"),
    [
        (DDIMParams(eta=0.5), DDIM(0.5)),
        (DPMSolverPPParams(), DPMSolverPP(2, last=TIMES[-1].item())),
        (DPMSolverPPParams(solver_order=1), DPMSolverPP(1, last=TIMES[-1].item())),
        (FlowEulerParams(), FlowEuler()),
        (FlowHeunParams(), FlowHeun()),
        (FlowSDEParams(form="cps", eta=0.8), FlowSDE("cps", 0.8)),
        (FlowSDEParams(guard=0.99), FlowSDE("flow_grpo", 0.7, 0.99)),
    ],
)
def test_each_has_its_settings(params, sampler):
    assert build_sampler(params, TIMES) == sampler


def _window(round_number=0, seed=0, **settings):
    params = FlowSDEParams(window=WindowParams(**settings))
    sampler = build_sampler(params, TIMES, round_number=round_number, seed=seed)
    assert isinstance(sampler, Windowed) and sampler.inside == FlowSDE()
    within = [step for step in range(10) if sampler.low < TIMES[step] <= sampler.high]
    return within, sampler


def test_a_fixed_window_stays():
    for round_number in (0, 100):
        within, sampler = _window(round_number, length=3, first=2)
        assert within == [2, 3, 4] and sampler.outside == FlowEuler()


def test_a_sliding_window_goes_by_the_round():
    for round_number, first in ((0, 0), (4, 0), (5, 1), (34, 6), (35, 0)):
        assert _window(round_number, length=4, schedule="progressive", every=5)[0] == [*range(first, first + 4)]
    for round_number, first in ((24, 4), (25, 0)):  # at 4 of 10 steps it has come to the last two
        within, _ = _window(round_number, length=4, schedule="progressive", every=5, leave_last=2)
        assert within == [*range(first, first + 4)]
    places = {tuple(_window(number, length=4, schedule="random", seed=3)[0]) for number in range(30)}
    assert len(places) > 4 and all(len(place) == 4 for place in places)


def test_a_solver_may_take_the_steps_outside():
    _, sampler = _window(length=4, outside="dpm_solver_pp")
    assert sampler.outside == DPMSolverPP(last=TIMES[-1].item())
