"""Classifier-free guidance as a denoiser that wraps a denoiser."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import Denoiser, Prediction
from diffalign.samplers import ClassifierFree
from diffalign.types import Condition
from tests.denoising.toys import PROCESSES, Seen, condition_of

FLOW = PROCESSES["linear_flow"]


@pytest.fixture
def inputs(generator):
    return torch.randn(3, 2, 4, generator=generator), torch.tensor([0.2, 0.5, 0.9]), condition_of(3)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_one_call_on_a_doubled_batch(scale, inputs):
    x_t, t, condition = inputs
    network = Seen(FLOW, Prediction.FLOW)
    guided = ClassifierFree(network, scale)(x_t, t, condition)
    assert network.batches == [6]
    given = network(x_t, t, condition)
    without = network(x_t, t, Condition(condition.null))
    assert not torch.allclose(given, without)
    torch.testing.assert_close(guided, without + scale * (given - without))


def test_scale_one_leaves_the_other_half_out(inputs):
    network = Seen(FLOW, Prediction.FLOW)
    guided = ClassifierFree(network, 1.0)(*inputs)
    assert network.batches == [3]
    assert torch.equal(guided, network(*inputs))


def test_it_is_a_denoiser_of_the_same_conventions():
    guided = ClassifierFree(Seen(FLOW, Prediction.V), 2.0)
    assert isinstance(guided, Denoiser)
    assert guided.process is FLOW and guided.prediction is Prediction.V


def test_without_an_empty_prompt_it_says_so(inputs):
    x_t, t, condition = inputs
    with pytest.raises(ValueError, match="no empty-prompt leaves"):
        ClassifierFree(Seen(FLOW, Prediction.FLOW), 2.0)(x_t, t, Condition(condition.leaves))


def test_guidance_of_guidance_nests(inputs):
    """The empty prompt's leaves survive for the inner one: they are handed on, or it says that they are not there."""
    network = Seen(FLOW, Prediction.FLOW)
    inner = ClassifierFree(network, 1.0)
    torch.testing.assert_close(
        ClassifierFree(inner, 3.0)(*inputs), ClassifierFree(Seen(FLOW, Prediction.FLOW), 3.0)(*inputs)
    )
