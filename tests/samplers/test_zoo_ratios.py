"""On the zoo's networks the first ratio is 1 to the bit: U-Net and transformer, guided and not, step by step."""

from __future__ import annotations

import pytest
import torch

from diffalign.samplers import DDIM, ClassifierFree, FlowSDE, rollout, step_log_prob
from tests.backbones.models import PROMPTS, load, perturb

CASES = [
    ("sd", DDIM(1.0), 5.0),
    ("sd3", FlowSDE("flow_grpo", 0.7), 4.5),
    ("sd3", FlowSDE("dance", 0.3), 1.0),
    ("sd3", FlowSDE("cps", 0.8), 1.0),
]
GROUPS, MEMBERS = 2, 2


@pytest.mark.parametrize(("family", "sampler", "guidance"), CASES)
def test_first_ratio_is_one_to_the_bit(family, sampler, guidance):
    backbone = load(family)
    perturb(backbone)
    policy = ClassifierFree(backbone.view("policy"), guidance)
    generators = [torch.Generator().manual_seed(group) for group in range(GROUPS)]
    x_init = torch.stack([torch.randn(MEMBERS, *backbone.sample_shape(), generator=each) for each in generators])
    condition, times = backbone.condition(PROMPTS[:GROUPS]), backbone.times(3)
    trajectory = rollout(policy, sampler, condition, x_init, times, generators=generators)
    steps = torch.nonzero(trajectory.stochastic)[:, 0]
    assert len(steps) >= 2  # all, but for cps's last one
    scores = step_log_prob(policy, sampler, trajectory, steps)
    assert torch.equal((scores.log_prob - trajectory.log_prob[steps]).exp(), torch.ones(len(steps), GROUPS, MEMBERS))
    order = torch.tensor([[1, 0]])  # and where each group is at a step of its own
    scores = step_log_prob(policy, sampler, trajectory, order)
    expected = torch.stack([trajectory.log_prob[order[:, group], group] for group in range(GROUPS)], dim=1)
    assert torch.equal(scores.log_prob, expected)
    scores.log_prob.mean().backward()
    slopes = [parameter.grad for name, parameter in backbone.network.named_parameters() if ".policy." in name]
    assert len(slopes) > 4 and all(slope is not None and slope.isfinite().all() for slope in slopes)
    assert any(slope.any() for slope in slopes)
