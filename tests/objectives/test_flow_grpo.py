"""Flow-GRPO, its guard and its mask: values by hand, gradients, limits; and the surrogate and divergences it uses."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import flow_grpo
from diffalign.objectives.divergence import gaussian_divergence, residual_divergence
from diffalign.objectives.surrogate import clip_advantage, clipped_surrogate, ratio_of

STEPS, GROUPS, MEMBERS = 5, 3, 4


@pytest.fixture
def inputs(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    advantage = draw(GROUPS, MEMBERS)
    return {
        "log_prob": 0.1 * draw(STEPS, GROUPS, MEMBERS),
        "behaviour_log_prob": 0.1 * draw(STEPS, GROUPS, MEMBERS),
        "advantage": advantage - advantage.mean(1, keepdim=True),
        "divergence": draw(STEPS, GROUPS, MEMBERS).square(),
        "behaviour_divergence": 0.01 * draw(STEPS, GROUPS, MEMBERS).square(),
        "std": draw(STEPS, GROUPS, MEMBERS).square() + 0.1,
    }


WAYS = {
    "plain": {"clip": None},
    "clipped": {"clip": 0.05},
    "guard": {"clip": 0.02, "guard": True},
    "mask": {"clip": None, "max_divergence": 0.005},
    "kl": {"clip": 0.05, "kl_weight": 0.3},
    "all": {"clip": 0.05, "guard": True, "max_divergence": 0.005, "kl_weight": 0.3, "advantage_clip": 0.5},
}
every = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


def _run(inputs, options):
    return flow_grpo(inputs["log_prob"], **{k: v for k, v in inputs.items() if k != "log_prob"}, **options)


def test_by_hand():
    log_ratio = torch.tensor([[math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)]], dtype=torch.float64)
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    output = flow_grpo(log_ratio, behaviour_log_prob=torch.zeros_like(log_ratio), advantage=advantage, clip=0.2)
    # max(-A ratio, -A clipped): -1.2 (stopped), -0.5 (pulled back), 1.5 (pulled back), 0.8 (stopped)
    torch.testing.assert_close(output.loss, torch.tensor([(-1.2 - 0.5 + 1.5 + 0.8) / 4], dtype=torch.float64))
    assert output.metrics["clip_fraction"] == 1
    assert output.metrics["ratio"] == pytest.approx(1.0)


def test_clipped_members_that_run_on_have_no_gradient():
    log_prob = torch.tensor([[0.5, -0.5, 0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    behaviour = torch.zeros(1, 4, dtype=torch.float64)
    flow_grpo(log_prob, behaviour_log_prob=behaviour, advantage=advantage, clip=0.2).loss.sum().backward()
    assert (log_prob.grad != 0).tolist() == [[False, True, True, False]]


def test_right_after_a_rollout_it_is_the_policy_gradient(inputs):
    log_prob = inputs["log_prob"].requires_grad_()
    for options in ({"clip": 1e-4}, {"clip": 1e-4, "guard": False, "max_divergence": None, "kl_weight": 0.0}):
        output = flow_grpo(log_prob, behaviour_log_prob=log_prob.detach(), advantage=inputs["advantage"], **options)
        assert output.metrics["ratio"] == 1 and output.metrics["clip_fraction"] == 0
        torch.testing.assert_close(output.loss, -inputs["advantage"].mean(1))
        gradient = torch.autograd.grad(output.loss.sum(), log_prob)[0]
        expected = -inputs["advantage"] / (STEPS * MEMBERS)
        torch.testing.assert_close(gradient, expected.expand(STEPS, -1, -1))


@every
def test_gradient_is_right(inputs, options):
    inputs["log_prob"].requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: _run(inputs | {"log_prob": seen}, options).loss, inputs["log_prob"])


def test_divergences_carry_gradient(inputs):
    inputs["divergence"].requires_grad_()
    inputs["behaviour_divergence"].requires_grad_()
    loss = _run(inputs, WAYS["all"]).loss.sum()
    for gradient in torch.autograd.grad(loss, [inputs["divergence"], inputs["behaviour_divergence"]]):
        assert gradient.isfinite().all() and gradient.any()


@every
def test_one_step_may_stand_alone(inputs, options):
    """Without a steps axis; and the mean over steps is the mean of the steps."""
    alone = [
        _run({k: v if k == "advantage" else v[step] for k, v in inputs.items()}, options).loss for step in range(STEPS)
    ]
    torch.testing.assert_close(_run(inputs, options).loss, torch.stack(alone).mean(0))


@every
def test_permuting_groups_members_or_steps(inputs, options):
    loss = _run(inputs, options).loss
    groups, members, steps = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(_run({k: v[..., groups, :] for k, v in inputs.items()}, options).loss, loss[groups])
    torch.testing.assert_close(_run({k: v[..., members] for k, v in inputs.items()}, options).loss, loss)
    moved = {k: v if k == "advantage" else v[steps] for k, v in inputs.items()}
    torch.testing.assert_close(_run(moved, options).loss, loss)


@every
@pytest.mark.parametrize("name", ["log_prob", "advantage"])
def test_nan_spoils_its_group_alone(inputs, options, name):
    inputs[name][..., 1, 2] = math.nan
    inputs["log_prob"].requires_grad_()
    output = _run(inputs, options)
    assert output.loss.isnan().tolist() == [False, True, False]
    gradient = torch.autograd.grad(output.loss.sum(), inputs["log_prob"])[0]
    assert gradient[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("way", "name"),
    [("plain", "behaviour_log_prob"), ("mask", "behaviour_divergence"), ("guard", "std"), ("kl", "divergence")],
)
def test_nan_in_what_an_option_reads_spoils_its_group_alone(inputs, way, name):
    """No comparison holds for a NaN: the mask would keep such a step as if it were close to the behaviour."""
    inputs[name][0, 1, 2] = math.nan
    assert _run(inputs, WAYS[way]).loss.isnan().tolist() == [False, True, False]


@every
def test_no_gradient_goes_into_the_behaviour(inputs, options):
    behaviour = inputs["behaviour_log_prob"].requires_grad_()
    inputs["log_prob"].requires_grad_()
    _run(inputs, options).loss.sum().backward()
    assert behaviour.grad is None and inputs["log_prob"].grad.any()


@every
def test_far_ratios_stay_finite(inputs, options):
    log_prob = (1e4 * inputs["log_prob"]).float().requires_grad_()
    output = _run({k: v.float() for k, v in inputs.items()} | {"log_prob": log_prob}, options)
    output.loss.sum().backward()
    assert output.loss.isfinite().all() and log_prob.grad.isfinite().all()


def test_equal_rewards_teach_nothing(inputs):
    inputs["advantage"] = torch.zeros_like(inputs["advantage"])
    inputs["log_prob"].requires_grad_()
    output = _run(inputs, WAYS["guard"])
    output.loss.sum().backward()
    assert not output.loss.any() and not inputs["log_prob"].grad.any()


def test_mask_drops_what_is_far_and_runs_on():
    log_ratio = torch.tensor([[0.1, -0.1, 0.1, -0.1, 0.1]], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    divergence = torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.5]], dtype=torch.float64)
    output = flow_grpo(
        log_ratio,
        behaviour_log_prob=torch.zeros_like(log_ratio),
        advantage=advantage,
        behaviour_divergence=divergence,
        clip=None,
        max_divergence=1.0,
    )
    output.loss.sum().backward()
    assert (log_ratio.grad != 0).tolist() == [[False, False, True, True, True]]
    assert output.metrics["masked_fraction"] == pytest.approx(0.4)


def test_guard_centres_the_log_ratio(generator):
    """Steps drawn by the behaviour: the plain log-ratio has mean -divergence, the guarded one 0."""
    std, elements, samples = 0.3, 3, 50_000
    noise = torch.randn(1, samples, elements, generator=generator, dtype=torch.float64)
    shift = torch.tensor([0.05, -0.02, 0.03], dtype=torch.float64).expand(1, samples, -1)
    log_prob = (-((std * noise - shift) ** 2) / (2 * std**2)).mean(-1)
    behaviour_log_prob = (-(noise**2) / 2).mean(-1)
    stds = torch.full((1, samples), std, dtype=torch.float64)
    divergence = gaussian_divergence(shift, other_mean=torch.zeros_like(shift), std=stds)
    assert (log_prob - behaviour_log_prob).mean() == pytest.approx(-divergence[0, 0].item(), rel=0.1)
    options = {"behaviour_log_prob": behaviour_log_prob, "advantage": -torch.ones_like(log_prob), "clip": None}
    guarded = flow_grpo(log_prob, **options, behaviour_divergence=divergence, std=stds, guard=True)
    spread = shift[0, 0].norm().item() / elements  # of the guarded log-ratio, whatever the step's std
    assert guarded.loss.item() == pytest.approx(1 + spread**2 / 2, abs=4 * spread / math.sqrt(samples))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guard": True}, "need behaviour_divergence"),
        ({"max_divergence": 1e-5}, "need behaviour_divergence"),
        ({"guard": True, "behaviour_divergence": torch.zeros(1, 2)}, "guard: needs std"),
        ({"kl_weight": 0.04}, "kl_weight: is 0.04, but no divergence was given"),
    ],
)
def test_options_without_their_input_are_refused(options, message):
    zeros = torch.zeros(1, 2)
    with pytest.raises(ConfigError, match=message):
        flow_grpo(zeros, behaviour_log_prob=zeros, advantage=zeros, clip=1e-4, **options)


def test_surrogate_pieces():
    ratio = ratio_of(torch.tensor([0.0, 1e3, -1e3, math.nan]))
    assert ratio[0] == 1 and ratio[1].isfinite() and ratio[2] > 0 and ratio[3].isnan()
    advantage = torch.tensor([[7.0, -7.0, 1.0]], requires_grad=True)
    assert clip_advantage(advantage, 5.0).tolist() == [[5.0, -5.0, 1.0]]
    assert clip_advantage(advantage, None).tolist() == [[7.0, -7.0, 1.0]]
    assert not clip_advantage(advantage, None).requires_grad
    two = torch.full((1, 1), 2.0)
    assert clipped_surrogate(two, advantage=two, clip=0.1).item() == pytest.approx(-2.2)
    assert clipped_surrogate(two, advantage=two, clip=None).item() == -4


def test_residual_divergence_is_the_mean_squared_difference(generator):
    first, second = torch.randn(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    found = residual_divergence(first, other_residual=second)
    torch.testing.assert_close(found, ((first - second) ** 2).mean((2, 3)))
    halves = residual_divergence(first.bfloat16(), other_residual=first.bfloat16())
    assert halves.dtype == torch.float32 and not halves.any()
