"""One time for all samples is the same as that time for each."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import LinearFlow, Prediction
from diffalign.samplers import DDIM, ClassifierFree, DPMSolverPP, FlowEuler, FlowHeun, FlowSDE, Windowed
from tests.samplers.toys import GaussianData, no_condition

WINDOWED = Windowed(FlowSDE(), FlowEuler(), high=0.8, low=0.7)


@pytest.mark.parametrize(
    "sampler", [DDIM(), DDIM(0.5), FlowEuler(), FlowHeun(), FlowSDE(), FlowSDE("cps"), DPMSolverPP(), WINDOWED]
)
def test_one_time_is_every_samples(sampler, generator):
    x = torch.randn(3, 2, 4, generator=generator)
    denoiser = ClassifierFree(GaussianData(LinearFlow(), Prediction.FLOW), 2.0)

    def step(t, t_next):
        return sampler.step(denoiser, x, t, t_next, no_condition(3))

    expected = step(torch.full((3,), 0.75), torch.full((3,), 0.5))
    for t, t_next in ((torch.tensor(0.75), torch.tensor(0.5)), (0.75, 0.5), (torch.full((3,), 0.75), 0.5)):
        found = step(t, t_next)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.std, expected.std) and found.std.shape == (3, 1, 1)
