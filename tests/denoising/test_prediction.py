"""Prediction types: what each means, how one is turned into another, and where that cannot be done."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import Prediction, add_noise, conversion_factor, split_prediction, target_of
from diffalign.exceptions import ShapeError
from tests.denoising.toys import PROCESSES

INNER = torch.tensor([0.1, 0.35, 0.6, 0.9])


def _pair(generator, batch=4, dtype=torch.float32):
    return torch.randn(2, batch, 3, 2, generator=generator, dtype=dtype)


def test_targets_by_hand():
    process, t = PROCESSES["linear_flow"], torch.tensor([0.25])
    x0, noise = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    expected = {"noise": -1.0, "sample": 2.0, "v": 0.75 * -1 - 0.25 * 2, "flow": -3.0}
    for name, value in expected.items():
        assert target_of(process, Prediction(name), x0, noise, t).item() == pytest.approx(value)


def test_edm_target_is_the_raw_output_of_karras(generator):
    process = PROCESSES["edm"]
    x0, noise = _pair(generator)
    sigma, data = process.sigma(INNER).reshape(-1, 1, 1), process.sigma_data
    c_skip = data**2 / (sigma**2 + data**2)
    c_out = sigma * data / (sigma**2 + data**2).sqrt()
    expected = (x0 - c_skip * (x0 + sigma * noise)) / c_out  # Karras et al. 2022, eq 8
    torch.testing.assert_close(target_of(process, Prediction.EDM, x0, noise, INNER), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("name", PROCESSES)
def test_split_is_the_inverse_of_the_target(name, prediction, generator):
    process = PROCESSES[name]
    x0, noise = _pair(generator, dtype=torch.float64)
    t = INNER.double()
    x_t = add_noise(process, x0, noise, t)
    output = target_of(process, prediction, x0, noise, t)
    found_x0, found_noise = split_prediction(process, prediction, output, x_t, t)
    torch.testing.assert_close(found_x0, x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_noise, noise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("output_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64])
def test_split_keeps_the_wider_dtype(output_dtype, state_dtype):
    x_t = torch.ones(1, 2, dtype=state_dtype)
    t = torch.tensor([0.5])
    parts = split_prediction(PROCESSES["vp"], Prediction.V, x_t.to(output_dtype), x_t, t)
    assert {part.dtype for part in parts} == {torch.promote_types(output_dtype, state_dtype)}


@pytest.mark.parametrize("source", Prediction)
@pytest.mark.parametrize("name", PROCESSES)
def test_factor_turns_residuals_into_residuals(name, source, generator):
    """Residuals of two predictions of one network at fixed x_t differ by the factor, for every pair of types."""
    process, t = PROCESSES[name], INNER.double()
    x0, noise = _pair(generator, dtype=torch.float64)
    x_t = add_noise(process, x0, noise, t)
    residual = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    output = target_of(process, source, x0, noise, t) + residual
    guess_x0, guess_noise = split_prediction(process, source, output, x_t, t)
    for target in Prediction:
        seen = target_of(process, target, guess_x0, guess_noise, t) - target_of(process, target, x0, noise, t)
        factor = conversion_factor(process, source, target, t).reshape(-1, 1, 1)
        torch.testing.assert_close(seen, factor * residual, rtol=1e-5, atol=1e-6)


def test_known_factors():
    t = torch.tensor([0.3])
    flow, sd = PROCESSES["linear_flow"], PROCESSES["vp"]
    assert conversion_factor(flow, Prediction.FLOW, Prediction.NOISE, t).item() == pytest.approx(0.7)  # 1 - t
    assert abs(conversion_factor(flow, Prediction.FLOW, Prediction.SAMPLE, t).item()) == pytest.approx(0.3)  # t
    at_500, at_999 = sd.time_of(torch.tensor([500.0])), sd.time_of(torch.tensor([999.0]))
    for at, ratio in ((at_500, 1 / 0.276333), (at_999, 1 / 0.0046601)):  # the DPO card: MSE_v = MSE_noise / abar
        squared = conversion_factor(sd, Prediction.NOISE, Prediction.V, at).item() ** 2
        assert squared == pytest.approx(ratio, rel=2e-5)


ONE, ZERO = torch.ones(1), torch.zeros(1)


@pytest.mark.parametrize(
    ("name", "source", "t"),
    [
        ("linear_flow", Prediction.NOISE, ONE),  # no signal: noise says nothing of the sample
        ("vp_zero_snr", Prediction.NOISE, ONE),
        ("linear_flow", Prediction.SAMPLE, ZERO),  # no noise: the sample says nothing of it
        ("vp", Prediction.SAMPLE, ZERO),
    ],
)
def test_where_the_denominator_is_zero_it_raises(name, source, t):
    process = PROCESSES[name]
    times = torch.cat([torch.tensor([0.5]), t])
    with pytest.raises(ShapeError, match=f"{source.value} prediction .* t = {t.item():g}"):
        conversion_factor(process, source, Prediction.V, times)
    x = torch.ones(2, 3)
    with pytest.raises(ShapeError, match=f"{source.value} prediction does not determine .* t = {t.item():g}"):
        split_prediction(process, source, x, x, times)


@pytest.mark.parametrize("source", [Prediction.V, Prediction.FLOW, Prediction.EDM])
@pytest.mark.parametrize("name", ["vp_zero_snr", "linear_flow"])
def test_the_others_are_defined_at_both_ends(name, source, generator):
    process, t = PROCESSES[name], torch.tensor([0.0, 1.0])
    x0, noise = _pair(generator, batch=2)
    x_t, output = add_noise(process, x0, noise, t), target_of(process, source, x0, noise, t)
    found_x0, found_noise = split_prediction(process, source, output, x_t, t)
    torch.testing.assert_close(found_x0, x0)
    torch.testing.assert_close(found_noise, noise)
    for target in Prediction:
        assert conversion_factor(process, source, target, t).isfinite().all()
