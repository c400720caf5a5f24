"""Inversion of pictures that the zoo's models drew: up to noise and back."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from diffalign.backbones import load_backbone
from diffalign.samplers import DDIM, FlowEuler, ReNoise, Sampler, invert_along, retrace
from diffalign.zoo import locate

PICTURES = 3


@pytest.mark.parametrize(("family", "sampler"), [("sd", DDIM()), ("sd3", FlowEuler())])
def test_renoise_comes_back_far_nearer_than_plain_inversion(family: str, sampler: Sampler):
    """Median of |x0 back - x0|^2 / |x0|^2 at 10 steps; benchmarks/inversion.py measures it with more of everything."""
    backbone = load_backbone(family, f"zoo://shapes-{family}")
    with safe_open(locate(f"zoo://shapes-{family}/preferences"), framework="pt") as file:
        x0 = file.get_slice("latents")[:PICTURES][:, 0].float()
        prompts, numbers = json.loads(file.metadata()["prompts"]), file.get_slice("prompt")[:PICTURES]
    network, condition = (
        backbone.view("reference"),
        backbone.condition([prompts[number] for number in numbers.tolist()]),
    )
    errors = {}
    for passes in (0, 2):
        found = invert_along(network, x0, condition, backbone.times(10), renoise=ReNoise(passes, None))
        back = retrace(network, sampler, condition, found)
        errors[passes] = ((back - x0).square().flatten(1).sum(1) / x0.square().flatten(1).sum(1)).median().item()
    assert 1e-4 < errors[0] < 0.05
    assert errors[2] < errors[0] / 4, errors
