"""Sampling that remembers every step, and the same steps scored again: one `Sampler.step`, used twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffalign.denoising import Denoiser
from diffalign.exceptions import ConfigError, ShapeError
from diffalign.samplers.density import Reduction, log_density
from diffalign.samplers.step import Sampler, Step, noise_like
from diffalign.samplers.trajectory import StepScores, Trajectory
from diffalign.types import Condition


@torch.no_grad()
def rollout(
    policy: Denoiser,
    sampler: Sampler,
    condition: Condition,
    x_init: Float[Tensor, "groups members *sample"],
    times: Float[Tensor, " states"] | Float[Tensor, "states groups members"],
    *,
    generators: Sequence[torch.Generator] | None,
    keep_predictions: bool = False,
    reduce: Reduction = "mean",
) -> Trajectory:
    """Sample groups of members and keep all that the steps were; without gradient.

    Args:
        policy: the behaviour policy; guidance is a denoiser that wraps one.
        sampler: what a step does.
        condition: leaves [groups, ...].
        x_init: unit Gaussian noise times sigma(times[0]). Members may start from one noise (D3PO, DanceGRPO) or each
            from its own (Flow-GRPO).
        times: descending process times, one more than there are steps; [states, groups, members] where members have
            times of their own (Diffusion-DRO).
        generators: one per group, on any device: it draws the noise of all members of the group, so that a group's
            trajectory does not depend on its batch. None will do for a deterministic sampler.
        keep_predictions: keep the network's outputs.
        reduce: of the log-densities, over elements.

    Raises:
        ShapeError: the shapes do not fit together.
        ValueError: the sampler adds noise and there are no generators, or there is not one per group.
    """
    groups, members = x_init.shape[:2]
    _check(x_init, times, condition, generators)
    times = times.to(x_init.device)
    x_t = x_init.flatten(0, 1).to(torch.promote_types(x_init.dtype, torch.float32))
    rows, history = condition.expand(members), None
    kept: dict[str, list[Tensor]] = {"states": [x_t], "mean": [], "std": [], "log_prob": [], "prediction": []}
    for number in range(len(times) - 1):
        t, t_next = (_time_rows(times[number + ahead], groups, members) for ahead in (0, 1))
        step = sampler.step(policy, x_t, t, t_next, rows, history)
        # rounded to the states' dtype first and scored then: the density is of the state that is stored
        x_t, history = _taken(step, groups, generators).to(x_t.dtype), step.state
        kept["states"].append(x_t)
        kept["mean"].append(step.mean)
        kept["std"].append(step.std.flatten())
        kept["log_prob"].append(_score(step, x_t, reduce))
        if keep_predictions:
            kept["prediction"].append(step.prediction)
    stacked = {name: torch.stack(parts).unflatten(1, (groups, members)) for name, parts in kept.items() if parts}
    return Trajectory(
        **stacked,
        times=times,
        stochastic=(stacked["std"] > 0).flatten(1).all(1),
        condition=condition,
        x0_hat=step.x0.unflatten(0, (groups, members)),
    )


def step_log_prob(
    denoiser: Denoiser,
    sampler: Sampler,
    trajectory: Trajectory,
    steps: Sequence[int] | Int[Tensor, " k"] | Int[Tensor, "k groups"],
    *,
    reduce: Reduction = "mean",
) -> StepScores:
    """Score steps of a trajectory again, by the step that made it, with gradient; one network call (batch) a step.

    At the batch shape, dtype and mode of the rollout the same network gives the very same log-probabilities, so that the
    first ratio is 1 to the bit. Another batch shape changes a network's answers by rounding, about 1e-6 of a log-prob
    whose clip may be 1e-5: score the behaviour policy again at the training shape then.

    Args:
        denoiser: whose steps they might have been; guided as the rollout was.
        sampler: the rollout's own.
        trajectory: on the denoiser's device.
        steps: which, 0 being the one from noise; as a tensor [k, groups] each group has its own order, which all its
            members share (D3PO).
        reduce: of the log-densities, over elements.

    Raises:
        ConfigError: a step is deterministic, or the sampler is a multistep one: it has no log-probability.
        ShapeError: no such steps.
    """
    groups, members = trajectory.groups, trajectory.members
    rows, every = trajectory.condition.expand(members), torch.arange(groups, device=trajectory.states.device)
    kept: dict[str, list[Tensor]] = {"log_prob": [], "mean": [], "std": [], "x0": [], "prediction": []}
    for chosen in _order(steps, trajectory):
        now, after = (trajectory.states[chosen + ahead, every].flatten(0, 1) for ahead in (0, 1))
        t, t_next = (_time_rows(_times_at(trajectory, chosen + ahead), groups, members) for ahead in (0, 1))
        step = sampler.step(denoiser, now, t, t_next, rows)
        _refuse_unscorable(step, sampler, chosen)
        kept["log_prob"].append(_score(step, after, reduce))
        kept["mean"].append(step.mean)
        kept["std"].append(step.std.flatten())
        kept["x0"].append(step.x0)
        kept["prediction"].append(step.prediction)
    return StepScores(**{name: torch.stack(parts).unflatten(1, (groups, members)) for name, parts in kept.items()})


def _check(x_init: Tensor, times: Tensor, condition: Condition, generators: Sequence[torch.Generator] | None) -> None:
    groups, members = x_init.shape[:2]
    if len(times) < 2 or times.shape[1:] not in ((), (groups, members)):
        raise ShapeError(
            f"times have shape {tuple(times.shape)}; they must be [states] or [states, {groups}, {members}], as x_init has "
            "groups and members, and two at least"
        )
    if condition.leaves and len(condition) != groups:
        raise ShapeError(
            f"the condition has {len(condition)} rows for {groups} groups; a row is a group's, not a member's"
        )
    if generators is not None and len(generators) != groups:
        raise ValueError(f"{len(generators)} generators for {groups} groups: one each")


def _time_rows(t: Tensor, groups: int, members: int) -> Tensor:
    """[batch], laid out alike whether the samples share it or not: kernels may round by layout."""
    return t.expand(groups, members).flatten().contiguous()


def _taken(step: Step, groups: int, generators: Sequence[torch.Generator] | None) -> Tensor:
    """The state that the step leads to. A group whose step is deterministic draws nothing."""
    noisy = (step.std.reshape(groups, -1) > 0).any(1).tolist()
    if not any(noisy):
        return step.mean
    if generators is None:
        raise ValueError("this sampler adds noise: pass one generator per group")
    mean, std = step.mean.unflatten(0, (groups, -1)), step.std.unflatten(0, (groups, -1))
    parts = [
        mean[group : group + 1] + std[group : group + 1] * noise_like(mean[group : group + 1], [generators[group]])
        if noisy[group]
        else mean[group : group + 1]
        for group in range(groups)
    ]
    return torch.cat(parts).flatten(0, 1)


def _score(step: Step, x_next: Tensor, reduce: Reduction) -> Tensor:
    return log_density(x_next, step.mean, step.std, density=step.density, reduce=reduce)


def _order(steps: Sequence[int] | Tensor, trajectory: Trajectory) -> Tensor:
    """[k, groups], on the trajectory's device."""
    order = torch.as_tensor(list(steps) if isinstance(steps, Sequence) else steps, device=trajectory.states.device)
    if order.ndim == 1:
        order = order[:, None].expand(-1, trajectory.groups)
    if order.ndim != 2 or order.shape[1] != trajectory.groups or not len(order):
        raise ShapeError(
            f"steps have shape {tuple(order.shape)}; they must be [k] or [k, {trajectory.groups}], as there are groups"
        )
    if order.is_floating_point() or int(order.min()) < 0 or int(order.max()) >= trajectory.steps:
        raise ShapeError(f"steps must be whole numbers from 0 to {trajectory.steps - 1}, got {order.unique().tolist()}")
    return order


def _times_at(trajectory: Trajectory, numbers: Int[Tensor, " groups"]) -> Tensor:
    """[groups, 1] or [groups, members]."""
    times = trajectory.times.to(numbers.device)
    if times.ndim == 1:
        return times[numbers][:, None]
    return times[numbers, torch.arange(len(numbers), device=numbers.device)]


def _refuse_unscorable(step: Step, sampler: Sampler, numbers: Tensor) -> None:
    if step.state is not None:
        raise ConfigError(
            f"a step of {type(sampler).__name__} depends on the steps before it and cannot be scored alone; "
            "it has no log-probability"
        )
    if not bool((step.std > 0).all()):
        raise ConfigError(
            f"step {int(numbers[(step.std.reshape(len(numbers), -1) <= 0).any(1)][0])} of {sampler} is deterministic and "
            "has no log-probability; leave it out (Trajectory.stochastic says which steps have one), or sample with noise: "
            "DDIM with eta > 0, FlowSDE"
        )
