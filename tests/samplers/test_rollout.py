"""Trajectories: the steps that are stored are the steps that are scored again."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError, ShapeError
from diffalign.samplers import DDIM, FlowEuler, FlowSDE, Trajectory, rollout, sample, step_log_prob
from tests.denoising.toys import PROCESSES, Seen, condition_of
from tests.samplers.toys import GaussianData, no_condition

FLOW = LinearFlow()
GROUPS, MEMBERS, SAMPLE = 3, 2, (2, 3, 3)
TIMES = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.1])
STOCHASTIC = [DDIM(1.0), FlowSDE("flow_grpo"), FlowSDE("dance", 0.3), FlowSDE("cps", 0.8)]


def _generators(groups=GROUPS):
    return [torch.Generator().manual_seed(10 + group) for group in range(groups)]


def _start(groups=GROUPS):
    return torch.stack([torch.randn(MEMBERS, *SAMPLE, generator=generator) for generator in _generators(groups)])


def _roll(sampler, denoiser=None, groups=GROUPS, times=TIMES, **options):
    network = Seen(FLOW, Prediction.FLOW) if denoiser is None else denoiser
    return rollout(
        network, sampler, condition_of(groups), _start(groups), times, generators=_generators(groups), **options
    )


def test_shapes_and_ends():
    network = Seen(FLOW, Prediction.FLOW)
    trajectory = _roll(FlowSDE(), network, keep_predictions=True)
    assert (trajectory.steps, trajectory.groups, trajectory.members) == (4, GROUPS, MEMBERS)
    assert trajectory.states.shape == (5, GROUPS, MEMBERS, *SAMPLE)
    assert trajectory.mean.shape == trajectory.prediction.shape == (4, GROUPS, MEMBERS, *SAMPLE)
    assert trajectory.std.shape == trajectory.log_prob.shape == (4, GROUPS, MEMBERS)
    assert trajectory.stochastic.tolist() == [True] * 4
    assert torch.equal(trajectory.states[0], _start()) and torch.equal(trajectory.x0, trajectory.states[-1])
    assert network.batches == [GROUPS * MEMBERS] * 4 and network.had_grad == [False] * 4
    assert not trajectory.log_prob.requires_grad
    x_t, output, t = trajectory.states[-2], trajectory.prediction[-1], TIMES[-2]
    torch.testing.assert_close(trajectory.x0_hat, x_t - t * output)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_scored_again_it_is_the_same_to_the_bit(sampler):
    network = Seen(FLOW, Prediction.FLOW)
    trajectory = _roll(sampler, network)
    scores = step_log_prob(network, sampler, trajectory, range(trajectory.steps))
    assert torch.equal((scores.log_prob - trajectory.log_prob).exp(), torch.ones(4, GROUPS, MEMBERS))
    assert torch.equal(scores.mean, trajectory.mean) and torch.equal(scores.std, trajectory.std)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_the_gradient_reaches_the_network(sampler):
    network = Seen(FLOW, Prediction.FLOW)
    trajectory = rollout(
        network, sampler, condition_of(GROUPS), _start().double(), TIMES.double(), generators=_generators()
    )

    def total(weight):
        other = Seen(FLOW, Prediction.FLOW, weight=weight)
        return step_log_prob(other, sampler, trajectory, [1, 3]).log_prob.sum().item()

    scores = step_log_prob(network, sampler, trajectory, [1, 3])
    (slope,) = torch.autograd.grad(scores.log_prob.sum(), network.weight)
    assert abs(slope) > 0.01
    assert slope.item() == pytest.approx((total(0.4 + 1e-5) - total(0.4 - 1e-5)) / 2e-5, rel=1e-5)


def test_log_prob_is_that_of_the_normal_distribution():
    sampler = FlowSDE()
    trajectory = _roll(sampler)
    normal = torch.distributions.Normal(trajectory.mean, trajectory.std[..., None, None, None])
    each = normal.log_prob(trajectory.states[1:]).flatten(3)
    torch.testing.assert_close(trajectory.log_prob, each.mean(-1))
    torch.testing.assert_close(_roll(sampler, reduce="sum").log_prob, each.sum(-1))
    again = step_log_prob(Seen(FLOW, Prediction.FLOW), sampler, trajectory, [2], reduce="sum")
    torch.testing.assert_close(again.log_prob, each.sum(-1)[2:3])


def test_cps_has_the_density_without_constants():
    trajectory = _roll(FlowSDE("cps", 0.8))
    square = (trajectory.states[1:] - trajectory.mean).square()
    torch.testing.assert_close(trajectory.log_prob, -square.flatten(3).mean(-1))


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_a_group_does_not_depend_on_its_batch(sampler):
    whole = _roll(sampler)
    for group in range(GROUPS):
        alone = rollout(
            Seen(FLOW, Prediction.FLOW),
            sampler,
            condition_of(GROUPS)[group : group + 1],
            _start()[group : group + 1],
            TIMES,
            generators=_generators()[group : group + 1],
        )
        torch.testing.assert_close(alone.states[:, 0], whole.states[:, group])
        part = whole[group : group + 1]
        torch.testing.assert_close(alone.log_prob, part.log_prob)
        assert torch.equal(part.condition.leaves["shift"], alone.condition.leaves["shift"])


def test_a_group_that_is_done_draws_nothing():
    """With times of its own a group may be deterministic where another is not: its generator stays where it is."""
    early, late = torch.tensor([0.8, 0.0, 0.0]), torch.tensor([0.9, 0.5, 0.2])
    times = torch.stack([early, late], dim=1)[..., None].expand(3, 2, MEMBERS)
    generators = _generators(2)
    untouched = generators[0].get_state()
    network = GaussianData(FLOW, Prediction.FLOW)
    trajectory = rollout(network, FlowSDE("cps", 0.5), no_condition(2), _start(2), times, generators=generators)
    assert torch.equal(generators[0].get_state(), untouched)
    assert not trajectory.stochastic.any()
    assert trajectory.log_prob[0, 0].isnan().all() and trajectory.log_prob[:, 1].isfinite().all()


def test_members_of_one_start_part_ways():
    start = _start()[:, :1].expand(GROUPS, MEMBERS, *SAMPLE)
    options = {"generators": _generators()}
    trajectory = rollout(Seen(FLOW, Prediction.FLOW), DDIM(1.0), condition_of(GROUPS), start, TIMES, **options)
    assert not torch.allclose(trajectory.x0[:, 0], trajectory.x0[:, 1], atol=0.1)


def test_steps_may_be_permuted_group_by_group():
    sampler, network = FlowSDE(), Seen(FLOW, Prediction.FLOW)
    trajectory = _roll(sampler, network)
    order = torch.tensor([[3, 0, 2], [1, 2, 0]])
    scores = step_log_prob(network, sampler, trajectory, order)
    for row, steps in enumerate(order.tolist()):
        for group, step in enumerate(steps):
            assert torch.equal(scores.log_prob[row, group], trajectory.log_prob[step, group])
            assert torch.equal(scores.mean[row, group], trajectory.mean[step, group])


def test_times_of_each_member_are_followed():
    offsets = torch.linspace(0, 0.05, GROUPS * MEMBERS).reshape(1, GROUPS, MEMBERS)
    times = TIMES[1:, None, None] + offsets
    sampler, network = DDIM(1.0), Seen(PROCESSES["vp"], Prediction.V)
    trajectory = _roll(sampler, network, times=times)
    scores = step_log_prob(network, sampler, trajectory, torch.tensor([[2, 1, 0]]))
    picked = torch.stack([trajectory.log_prob[step, group] for group, step in enumerate([2, 1, 0])])
    assert torch.equal(scores.log_prob[0], picked)
    same = _roll(sampler, network, times=TIMES[1:])
    assert torch.equal(
        _roll(sampler, network, times=TIMES[1:, None, None].expand(4, GROUPS, MEMBERS)).states, same.states
    )
    torch.testing.assert_close(trajectory.states[:, 0, 0], same.states[:, 0, 0])
    assert not torch.allclose(trajectory.states[-1, 2], same.states[-1, 2], atol=1e-3)


def test_it_is_the_loop_of_sample():
    trajectory = _roll(FlowEuler())
    flat = sample(
        Seen(FLOW, Prediction.FLOW), FlowEuler(), condition_of(GROUPS).expand(MEMBERS), _start().flatten(0, 1), TIMES
    )
    assert torch.equal(trajectory.x0.flatten(0, 1), flat)
    assert trajectory.log_prob.isnan().all() and not trajectory.stochastic.any()
    assert trajectory.prediction is None


@pytest.mark.parametrize("sampler", [FlowEuler(), DDIM(0.0)])
def test_a_deterministic_step_has_no_log_probability(sampler):
    trajectory = _roll(sampler)
    with pytest.raises(ConfigError, match=rf"step 2 of {type(sampler).__name__}\(.* has no log-probability"):
        step_log_prob(Seen(FLOW, Prediction.FLOW), sampler, trajectory, [2])


def test_the_last_step_to_data_has_none_either():
    sampler, times = DDIM(1.0), torch.tensor([1.0, 0.5, 0.0])
    trajectory = _roll(sampler, times=times)
    assert trajectory.stochastic.tolist() == [True, False]
    assert trajectory.log_prob[0].isfinite().all() and trajectory.log_prob[1].isnan().all()
    with pytest.raises(ConfigError, match=r"step 1 of DDIM\(eta=1.0\) is deterministic"):
        step_log_prob(Seen(FLOW, Prediction.FLOW), sampler, trajectory, range(2))


def test_states_are_float32_whatever_the_start_and_the_network():
    trajectory = rollout(
        Seen(FLOW, Prediction.FLOW, dtype=torch.bfloat16),
        FlowSDE(),
        condition_of(GROUPS),
        _start().bfloat16(),
        TIMES,
        generators=_generators(),
    )
    assert trajectory.states.dtype == trajectory.log_prob.dtype == torch.float32
    again = step_log_prob(Seen(FLOW, Prediction.FLOW, dtype=torch.bfloat16), FlowSDE(), trajectory, range(4))
    assert torch.equal(again.log_prob, trajectory.log_prob)


@pytest.mark.parametrize("groups", [slice(1, 3), torch.tensor([2, 0])])
def test_some_groups_are_a_trajectory(groups):
    sampler, network = FlowSDE(), Seen(FLOW, Prediction.FLOW)
    whole = _roll(sampler, network, keep_predictions=True)
    part = whole[groups].to("cpu")
    assert isinstance(part, Trajectory) and part.groups == 2
    for name in ("states", "mean", "std", "log_prob", "prediction"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, groups])
    assert torch.equal(part.x0_hat, whole.x0_hat[groups])
    scores = step_log_prob(network, sampler, part, [0])
    torch.testing.assert_close(scores.log_prob[0], whole.log_prob[0, groups])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generators": None}, "pass one generator per group"),
        ({"generators": [torch.Generator()]}, "1 generators for 3 groups"),
        ({"times": TIMES[:1]}, r"times have shape \(1,\)"),
        ({"condition": condition_of(6)}, "the condition has 6 rows for 3 groups"),
    ],
)
def test_what_does_not_fit_is_said(change, says):
    given = {"condition": condition_of(GROUPS), "times": TIMES, "generators": _generators()} | change
    with pytest.raises(ValueError, match=says):
        rollout(
            Seen(FLOW, Prediction.FLOW),
            FlowSDE(),
            given["condition"],
            _start(),
            given["times"],
            generators=given["generators"],
        )


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([4], "from 0 to 3, got"),
        ([-1], "from 0 to 3, got"),
        ([], "steps have shape"),
        (torch.zeros(2, 5, dtype=torch.long), r"must be \[k\] or \[k, 3\]"),
    ],
)
def test_steps_that_are_not_there(steps, says):
    with pytest.raises(ShapeError, match=says):
        step_log_prob(Seen(FLOW, Prediction.FLOW), FlowSDE(), _roll(FlowSDE()), steps)
