"""What a beta means: known conversions, and agreement with the denoising primitive and with the objectives."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.denoising import EDM, VP, LinearFlow, NoiseDraw, Prediction, conversion_factor, denoising_errors
from diffalign.exceptions import ConfigError
from diffalign.objectives import OBJECTIVES, diffusion_dpo
from diffalign.objectives.beta import (
    BetaForm,
    calibrate_beta,
    convert_beta,
    effective_beta,
    error_gap,
    residual_factor,
)
from tests.denoising.toys import PROCESSES, STABLE_DIFFUSION, Seen, condition_of

SUM, MEAN = BetaForm(1.0, "sum"), BetaForm()
TIMES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
NOISE, SAMPLE, FLOW = (0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)


@pytest.mark.parametrize(("side", "expected"), [(64, 0.1526), (128, 0.0381)])  # SD1.5, SDXL
def test_diffusion_dpos_beta_on_summed_errors(side, expected):
    elements = 4 * side**2
    found = convert_beta(5000.0, source=MEAN, target=SUM, elements=elements)
    assert round(found, 4) == expected
    assert convert_beta(found, source=SUM, target=MEAN, elements=elements) == pytest.approx(5000.0)


def test_with_and_without_the_half():
    whole = BetaForm(factor=1.0)
    assert convert_beta(2500.0, source=whole, target=MEAN) == 5000.0  # diffusers' SD script
    assert convert_beta(12.0, source=whole, target=MEAN) == 24.0  # GDRO's as Flow-DPO's
    assert convert_beta(100.0, source=BetaForm(0.5, "sum"), target=MEAN, elements=4) == 400.0  # Flow-DPO's pseudo-code
    tensor = torch.tensor([1.0, 2.0])
    assert convert_beta(tensor, source=MEAN, target=whole).tolist() == [0.5, 1.0]


def test_converted_betas_give_one_loss(generator):
    policy, reference = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
    elements = 48
    beta = convert_beta(0.7, source=BetaForm(0.5, "sum"), target=MEAN, elements=elements)
    summed = diffusion_dpo(policy * elements, reference=reference * elements, beta=0.7)
    torch.testing.assert_close(diffusion_dpo(policy, reference=reference, beta=beta).loss, summed.loss)


def test_noise_and_velocity_errors_of_stable_diffusion():
    """MSE_v = MSE_eps / abar: 3.62 at index 500, 214.6 at 999; MSE_x0 = MSE_eps (1 - abar) / abar."""
    process = VP.from_scheduler_config(STABLE_DIFFUSION)
    t = process.time_of(torch.tensor([500.0, 999.0]))
    alpha, sigma = process.alpha(t).double(), process.sigma(t).double()
    torch.testing.assert_close(alpha**2, torch.tensor([0.276333, 0.0046601]).double(), rtol=2e-5, atol=0)
    seen = effective_beta(1.0, alpha, sigma, measure=(-sigma, alpha), prediction=NOISE)
    torch.testing.assert_close(seen, 1 / alpha**2)
    assert [round(seen[0].item(), 2), round(seen[1].item(), 1)] == [3.62, 214.6]
    sample = effective_beta(1.0, alpha, sigma, measure=SAMPLE, prediction=NOISE)
    torch.testing.assert_close(sample, (1 - alpha**2) / alpha**2, rtol=1e-4, atol=0)


def test_noise_and_sample_errors_of_the_flow():
    alpha, sigma = 1 - TIMES, TIMES
    torch.testing.assert_close(
        effective_beta(100.0, alpha, sigma, measure=NOISE, prediction=FLOW), 100 * (1 - TIMES) ** 2
    )
    torch.testing.assert_close(effective_beta(100.0, alpha, sigma, measure=SAMPLE, prediction=FLOW), 100 * TIMES**2)
    assert effective_beta(100.0, 0.5, 0.5, measure=NOISE, prediction=FLOW) == 25.0  # numbers do too


@pytest.mark.parametrize("process", [PROCESSES["vp"], LinearFlow(), EDM()], ids=["vp", "flow", "edm"])
@pytest.mark.parametrize("measure", Prediction)
@pytest.mark.parametrize("prediction", Prediction)
def test_factor_is_the_primitives(process, measure, prediction):
    alpha, sigma = process.alpha(TIMES), process.sigma(TIMES)
    spaces = {
        "source": prediction.coefficients(alpha, sigma, process.sigma_data),
        "target": measure.coefficients(alpha, sigma, process.sigma_data),
    }
    expected = conversion_factor(process, prediction, measure, TIMES)
    torch.testing.assert_close(residual_factor(alpha, sigma, **spaces), expected)


def test_effective_beta_is_what_measuring_elsewhere_does(generator):
    """Constant beta on errors measured as noise = the effective beta on the network's own errors."""
    flow = LinearFlow()
    x0, noise = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    t = torch.rand(3, 1, generator=generator, dtype=torch.float64).expand(3, 2)
    networks = [Seen(flow, Prediction.FLOW, weight=weight) for weight in (0.4, 0.3)]
    own, measured = (
        denoising_errors(*networks, x0, condition_of(3), NoiseDraw(t, noise), measure=measure)
        for measure in (None, Prediction.NOISE)
    )
    beta = effective_beta(50.0, flow.alpha(t[:, 0]), flow.sigma(t[:, 0]), measure=NOISE, prediction=FLOW)
    expected = diffusion_dpo(measured.policy, reference=measured.reference, beta=50.0).loss
    torch.testing.assert_close(diffusion_dpo(own.policy, reference=own.reference, beta=beta).loss, expected)


def test_there_and_back_is_one():
    alpha, sigma = 1 - TIMES, TIMES
    there = residual_factor(alpha, sigma, source=NOISE, target=SAMPLE)
    torch.testing.assert_close(
        there * residual_factor(alpha, sigma, source=SAMPLE, target=NOISE), torch.ones(3).double()
    )


def test_a_gap_gives_its_margin():
    beta = calibrate_beta(1e-3, margin=2.0, factor=0.5)
    assert beta == pytest.approx(4000.0)
    policy = torch.tensor([[0.2, 0.201]], dtype=torch.float64)
    reference = torch.full((1, 2), 0.3, dtype=torch.float64)
    assert diffusion_dpo(policy, reference=reference, beta=beta).metrics["margin"] == pytest.approx(2.0)
    assert error_gap(beta, margin=2.0, factor=0.5) == pytest.approx(1e-3)
    assert error_gap(5000.0, margin=math.log(9), factor=OBJECTIVES["diffusion_dpo"].params.beta_factor) < 1e-3


def test_gdros_gaps():
    """A reward spread of 1 at beta tau = 0.6 (12 and 0.05) needs a gap of 1.67 in mean errors."""
    assert error_gap(12.0, margin=1 / 0.05, factor=1.0) == pytest.approx(1 / 0.6)
    assert calibrate_beta(1e-2, margin=1 / 0.05, factor=1.0) == pytest.approx(2000.0)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: convert_beta(1.0, source=SUM, target=MEAN), "elements: a beta on summed errors .* got None"),
        (lambda: convert_beta(1.0, source=BetaForm(0.0), target=MEAN), "factor: must be > 0, got 0"),
        (lambda: convert_beta(1.0, source=BetaForm(1.0, "max"), target=MEAN), "must be mean or sum, got 'max'"),
        (lambda: residual_factor(0.0, 1.0, source=NOISE, target=SAMPLE), "does not determine"),
        (lambda: residual_factor(1 - TIMES, 0 * TIMES, source=SAMPLE, target=NOISE), "does not determine"),
        (lambda: calibrate_beta(0.0, margin=1.0, factor=0.5), "gap: must be > 0, got 0"),
        (lambda: error_gap(-1.0, margin=1.0, factor=0.5), "beta: must be > 0, got -1"),
        (lambda: error_gap(1.0, margin=math.nan, factor=0.5), "margin: must be > 0, got nan"),
    ],
)
def test_wrong_numbers_are_refused(work, message, unchecked_types):
    with pytest.raises(ConfigError, match=message):
        work()
