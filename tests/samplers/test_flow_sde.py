"""The stochastic steps of a flow keep its marginals; what they do at the ends of time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.samplers import FlowEuler, FlowSDE, Sampler
from tests.denoising.toys import PROCESSES, Fixed
from tests.samplers.toys import GaussianData, no_condition

FLOW = LinearFlow()
SDES = [("flow_grpo", 0.3), ("flow_grpo", 0.7), ("dance", 0.3), ("dance", 0.7)]


def _marginal(t):
    return (1 - t) * 0.7, (1 - t) ** 2 * 0.16 + t**2


def _moments(sampler, first, last, steps):
    """Mean and variance at the last time: with Gaussian data a step is affine in x_t, so they go through exactly."""
    denoiser = GaussianData(FLOW, Prediction.FLOW)
    mean, variance = (torch.tensor(value, dtype=torch.float64) for value in _marginal(first))
    for now, after in itertools.pairwise(torch.linspace(first, last, steps + 1, dtype=torch.float64)):
        points = torch.stack([mean, mean + 1])[:, None]
        step = sampler.step(denoiser, points, now, after, no_condition(2))
        slope = step.mean[1, 0] - step.mean[0, 0]
        mean, variance = step.mean[0, 0], slope**2 * variance + step.std[0, 0] ** 2
    return mean.item(), variance.item()


@pytest.mark.parametrize(("form", "eta"), SDES)
@pytest.mark.parametrize("last", [0.5, 0.0])
def test_marginals_are_kept(form, eta, last):
    """From the marginal at 0.9 that at a later time is reached; first order: the error halves as steps double."""
    expected = _marginal(last)
    (mean, coarse), (fine_mean, fine) = (_moments(FlowSDE(form, eta), 0.9, last, steps) for steps in (50, 100))
    assert fine_mean == pytest.approx(expected[0], abs=0.01)
    assert abs(fine_mean - expected[0]) < 0.6 * abs(mean - expected[0]) + 1e-9
    assert abs(fine / expected[1] - 1) < 0.03
    assert abs(fine - expected[1]) < 0.6 * abs(coarse - expected[1])


@pytest.mark.parametrize(("form", "eta"), SDES)
def test_from_pure_noise_too(form, eta):
    """Flow-GRPO's first step adds noise of std eta at any step size, which later steps forget but slowly: 3%."""
    assert _moments(FlowSDE(form, eta), 1.0, 0.0, 200) == pytest.approx(_marginal(0.0), rel=0.03)


def test_cps_keeps_coefficients_and_not_marginals():
    """Its noise does not shrink with the step: the spread of the data comes out too small however many there are."""
    variances = [_moments(FlowSDE("cps", 0.8), 1.0, 0.0, steps)[1] for steps in (10, 50, 150)]
    assert variances == sorted(variances) and variances[-1] == pytest.approx(0.101, abs=0.003)
    assert _moments(FlowSDE("cps", 0.1), 1.0, 0.0, 150)[1] == pytest.approx(
        0.16, rel=0.03
    )  # as little noise, as little


@pytest.mark.parametrize(("form", "eta"), [("flow_grpo", 0.7), ("dance", 0.7)])
def test_many_samples_have_the_variance_of_the_data(form, eta, generator):
    """The same by drawing: 4000 samples, 100 steps; a variance of so many is within 7% at three sigmas."""
    sampler, denoiser = FlowSDE(form, eta), GaussianData(FLOW, Prediction.FLOW)
    x = torch.randn(4000, 1, generator=generator)
    for now, after in itertools.pairwise(torch.linspace(1, 0, 101)):
        step = sampler.step(denoiser, x, now, after, no_condition(4000))
        x = step.mean + step.std * torch.randn(4000, 1, generator=generator)
    assert x.mean().item() == pytest.approx(0.7, abs=0.03)
    assert x.var().item() == pytest.approx(0.16, rel=0.1)


@pytest.mark.parametrize("eta", [0.1, 0.8, 1.0])
def test_cps_has_exactly_the_noise_that_belongs_there(eta):
    """Where the network knows x0, the noise in x_next has std t_next at any step size; Flow-GRPO's has more."""
    x0, noise = torch.full((1, 2), 0.7, dtype=torch.float64), torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    t, t_next = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)

    def step(form, noise):
        network = Fixed(FLOW, Prediction.FLOW, noise - x0)
        return FlowSDE(form, eta).step(network, 0.2 * x0 + 0.8 * noise, t, t_next, no_condition(1))

    def share(form):
        """Variance of x_next given x0, over the noise in x_t and the noise that is added."""
        slope = (step(form, noise + 1).mean - step(form, noise).mean)[0, 0]
        return (slope**2 + step(form, noise).std[0, 0] ** 2).item()

    assert share("cps") == pytest.approx(0.25, rel=1e-12)
    assert step("cps", noise).std[0, 0].item() == pytest.approx(0.5 * math.sin(eta * math.pi / 2))
    torch.testing.assert_close(step("cps", 0 * noise).mean, 0.5 * x0)
    assert share("flow_grpo") > 0.25 + 0.01 * eta


def test_without_noise_it_is_euler(generator):
    x, t, t_next = torch.randn(2, 3, generator=generator), torch.tensor([1.0, 0.6]), torch.tensor([0.9, 0.4])
    denoiser = GaussianData(FLOW, Prediction.FLOW)
    euler = FlowEuler().step(denoiser, x, t, t_next, no_condition(2))
    for form in ("flow_grpo", "dance", "cps"):
        step = FlowSDE(form, 1e-6).step(denoiser, x, t, t_next, no_condition(2))
        torch.testing.assert_close(step.mean, euler.mean, rtol=1e-5, atol=1e-5)
        assert torch.equal(step.x0, euler.x0) and torch.equal(step.prediction, euler.prediction)
        assert isinstance(FlowSDE(form), Sampler) and step.state is None


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("form", ["flow_grpo", "dance", "cps"])
def test_any_prediction_gives_the_same_step(prediction, form, generator):
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    t, t_next = torch.tensor([0.8, 0.3]), torch.tensor([0.6, 0.1])
    found = FlowSDE(form).step(GaussianData(FLOW, prediction), x, t, t_next, no_condition(2))
    expected = FlowSDE(form).step(GaussianData(FLOW, Prediction.FLOW), x, t, t_next, no_condition(2))
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.std, expected.std) and found.std.shape == (2, 1, 1)


def test_the_guard_is_each_samples_own():
    """Rows at t = 1 take their own t_next, and rows elsewhere none: the same s_t whatever else is in the batch."""
    x, denoiser = torch.zeros(3, 2), GaussianData(FLOW, Prediction.FLOW)
    t, t_next = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([0.9, 0.8, 0.4])
    std = FlowSDE(eta=1.0).step(denoiser, x, t, t_next, no_condition(3)).std.flatten()
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.1**0.5]))
    alone = FlowSDE(eta=1.0).step(denoiser, x[:1], 1.0, 0.9, no_condition(1)).std.flatten()
    assert torch.equal(alone, std[:1])


@pytest.mark.parametrize("form", ["flow_grpo", "dance", "cps"])
def test_the_last_step(form):
    """Flow-GRPO's and DanceGRPO's add noise to the very end; CPS's do not."""
    step = FlowSDE(form).step(GaussianData(FLOW, Prediction.FLOW), torch.ones(1, 2), 0.1, 0.0, no_condition(1))
    assert bool((step.std > 0).all()) == (form != "cps")
    if form == "cps":
        torch.testing.assert_close(step.mean, step.x0)


@pytest.mark.parametrize("name", ["vp", "edm"])
def test_it_refuses_other_processes(name):
    x = torch.zeros(1, 3)
    with pytest.raises(ConfigError, match=r"stochastic step needs a linear flow, got (VP|EDM); use DDIM"):
        FlowSDE().step(Fixed(PROCESSES[name], Prediction.V, x), x, 1.0, 0.5, no_condition(1))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"eta": 0.0}, "eta: must be > 0, got 0; without noise the step is FlowEuler's"),
        ({"form": "cps", "eta": 1.5}, "eta: must be > 0 and <= 1 with form cps, got 1.5"),
        ({"guard": 1.0}, "guard: must be between 0 and 1, got 1"),
    ],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(ConfigError, match=says):
        FlowSDE(**settings)
