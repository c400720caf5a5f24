"""What an optimizer step does: the same numbers however the batch is split, and the settings that change them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config import RunConfig
from diffalign.denoising import DenoisingErrors
from diffalign.exceptions import DataError, DivergenceError
from diffalign.objectives import OBJECTIVES, ObjectiveOutput
from diffalign.training import Run, train
from diffalign.training.build_trainer import build_trainer
from diffalign.training.learning_rate import learning_rate_factor
from diffalign.training.offline import OfflineTrainer
from tests.data.pictures import pairs_folder
from tests.training.tiny import DPO, adapter, assert_equal, rows, tiny, trainer_state


def run(config: RunConfig) -> Run:
    return train(config, progress=False)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder)]


@pytest.fixture(scope="module")
def four_groups(home: Path) -> Run:
    """The run that others are compared with: 4 groups in one forward."""
    return run(tiny(home, training={"groups": 4, "steps": 3}))


def close(first: Run, second: Run) -> None:
    torch.testing.assert_close(losses(first.folder), losses(second.folder), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(adapter(first.folder), adapter(second.folder), rtol=1e-4, atol=2e-5)
    for name in ("margin", "winner_error", "loser_error", "reference_drift", "gradient_norm"):
        seen = [[row[name] for row in rows(each.folder)] for each in (first, second)]
        torch.testing.assert_close(*seen, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("split", [(1, 4), pytest.param((2, 2), marks=pytest.mark.slow)])
def test_accumulation_equals_the_big_batch(home, four_groups, split):
    groups, accumulation = split
    close(run(tiny(home, training={"groups": groups, "accumulation": accumulation, "steps": 3})), four_groups)


@pytest.mark.parametrize("max_batch", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_max_batch_changes_memory_only(home, four_groups, max_batch):
    close(run(tiny(home, training={"groups": 4, "steps": 3, "max_batch": max_batch})), four_groups)


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_only(home, four_groups):
    close(run(tiny(home, training={"groups": 4, "steps": 3}, model={"gradient_checkpointing": True})), four_groups)


def test_same_seed_same_bits_other_seed_others(home, four_groups):
    again = run(tiny(home, training={"groups": 4, "steps": 3}))
    assert_equal(adapter(again.folder), adapter(four_groups.folder))
    other = run(tiny(home, training={"groups": 4, "steps": 3}, seed=1))
    assert losses(other.folder)[1:] != losses(four_groups.folder)[1:]


def test_training_leaves_the_global_generator_alone(home):
    torch.random.default_generator.manual_seed(5)
    before = torch.get_rng_state()
    run(tiny(home, training={"steps": 1}, model={"lora": {"rank": 2, "dropout": 0.5}}))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_dropout_follows_from_the_seed(home):
    config = tiny(home, training={"steps": 3}, model={"lora": {"rank": 2, "dropout": 0.5}})
    first = run(config)
    torch.rand(17)
    assert_equal(adapter(run(config).folder), adapter(first.folder))
    without = run(tiny(home, training={"steps": 3}, model={"lora": {"rank": 2}}))
    assert losses(without.folder)[2] != losses(first.folder)[2]


def test_first_loss_is_log_two(four_groups):
    first = rows(four_groups.folder)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["margin"] == 0
    assert first["reference_drift"] == 0
    assert first["winner_error"] == first["reference_winner_error"]


def test_learning_moves_the_margin(home):
    """On one pair, again and again, the loss falls."""
    folder = pairs_folder(home / "one pair", 1)
    config = tiny(home, data={"path": str(folder), "resolution": 16}, training={"steps": 12, "groups": 4})
    seen = losses(run(config).folder)
    assert sum(seen[-4:]) / 4 < 0.6 < math.log(2)


# ---------------------------------------------------------------- families, objectives, times, precision


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        ("sd3", {"name": "flow_dpo", "beta": 100.0}),
        ("sd3", {"name": "flow_dpo", "beta": 100.0, "schedule": "one_minus_t_sq"}),
        ("sd", {"name": "sft"}),
        pytest.param("sd3", DPO, marks=pytest.mark.slow),
        pytest.param("sd3", {"name": "sft"}, marks=pytest.mark.slow),
    ],
)
def test_every_objective_on_its_families(home, family, objective):
    done = run(tiny(home, family=family, objective=objective, training={"steps": 2}))
    first, second = rows(done.folder)
    if objective["name"] == "sft":
        assert first["loss"] == pytest.approx(first["winner_error"])
        assert "margin" not in first
        assert "reference_drift" not in first
    else:
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert second["loss"] != first["loss"]
    moved = [float(value.abs().max()) > 0 for key, value in adapter(done.folder).items() if "lora_B" in key]
    # the last block of an SD3 transformer has no text stream behind it: what only feeds that one learns nothing
    assert sum(moved) >= len(moved) - 1


@pytest.mark.slow
def test_schedules_of_flow_dpo_differ(home):
    objectives = [{"name": "flow_dpo", "schedule": schedule} for schedule in ("constant", "one_minus_t_sq")]
    seen = [losses(run(tiny(home, family="sd3", objective=each, training={"steps": 2})).folder) for each in objectives]
    assert seen[0][0] == pytest.approx(seen[1][0])
    assert seen[0][1] != seen[1][1]


def times_of_step(trainer: OfflineTrainer) -> torch.Tensor:
    drawn = []
    for number in range(trainer.config.training.accumulation):
        positions = trainer._positions(number)
        batch = trainer.data.batch([trainer._place(position) for position in positions])
        drawn.append(trainer._draw(batch, [trainer._place(each)[0] for each in positions], positions).t)
    return torch.cat(drawn)


@pytest.mark.parametrize("family", ["sd", "sd3"])
@pytest.mark.parametrize(
    "time",
    [
        {"sampling": "uniform"},
        {"sampling": "logit_normal", "mean": 4.0, "std": 0.1},
        {"sampling": "shifted", "shift": 50.0},
        {"sampling": "stratified"},
    ],
    ids=lambda time: time["sampling"],
)
def test_times_are_drawn_as_asked(home, family, time):
    trainer = build_trainer(tiny(home, family=family, time=time, training={"groups": 4, "accumulation": 2}))
    t = times_of_step(trainer)
    assert t.shape == (8, 2)
    assert torch.equal(t[:, 0], t[:, 1])  # a pair shares its time
    assert t.dtype == torch.float32
    assert 0 <= t.min() <= t.max() <= 1
    if time["sampling"] == "stratified":  # one in each eighth
        assert sorted(((t[:, 0] - 1e-6) * 8).floor().int().tolist()) == list(range(8))
    if time["sampling"] == "logit_normal":
        assert t.min() > 0.95
    if time["sampling"] == "shifted":
        assert t.median() > 0.9
    if family == "sd" and time["sampling"] in ("uniform", "stratified"):  # Stable Diffusion's integer timesteps
        torch.testing.assert_close(t * 1000, (t * 1000).round(), rtol=0, atol=1e-3)


def test_max_batch_is_the_most_that_the_network_sees(home):
    trainer = build_trainer(tiny(home, training={"groups": 4, "max_batch": 3}))
    sizes: list[int] = []
    trainer.backbone.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    trainer.train_step()
    assert sizes == [3, 3, 2] * 2  # 4 groups x 2 members, policy and reference


def test_stratified_does_not_depend_on_the_split(home):
    whole, split = (
        times_of_step(build_trainer(tiny(home, time={"sampling": "stratified"}, training=training)))
        for training in ({"groups": 4}, {"groups": 2, "accumulation": 2})
    )
    assert torch.equal(whole, split)


def test_members_may_have_their_own_draws(home):
    trainer = build_trainer(tiny(home, training={"share_time": False, "share_noise": False}))
    positions = trainer._positions(0)
    places = [trainer._place(position) for position in positions]
    _, draw = trainer._drawn(places, positions)
    assert not torch.equal(draw.t[:, 0], draw.t[:, 1])
    assert not torch.equal(draw.noise[:, 0], draw.noise[:, 1])


def test_each_record_is_seen_once_per_epoch(home):
    folder = pairs_folder(home / "seven pairs", 6)
    trainer = build_trainer(tiny(home, data={"path": str(folder), "resolution": 16}, training={"groups": 2}))
    seen = [name for _ in range(6) for name in trainer.train_step().record_ids]
    assert sorted(seen[:6]) == sorted(seen[6:]) == [f"r{number}" for number in range(6)]
    assert seen[:6] != seen[6:]


def test_mixed_precision_bf16(home, four_groups):
    done = run(tiny(home, training={"groups": 4, "steps": 3, "mixed_precision": "bf16"}))
    assert losses(done.folder)[0] == pytest.approx(math.log(2), abs=1e-6)  # both networks run in the same precision
    assert losses(done.folder) != losses(four_groups.folder)
    torch.testing.assert_close(losses(done.folder), losses(four_groups.folder), rtol=0.3, atol=0.3)
    assert {value.dtype for value in adapter(done.folder).values()} == {torch.float32}
    run(tiny(home, training={"steps": 1}))  # another precision in the same process


def test_frozen_weights_in_bf16(home):
    data = {"path": str(pairs_folder(home / "for bf16", 2)), "resolution": 16}
    done = run(tiny(home, data=data, training={"steps": 2}, model={"precision": "bf16"}))
    assert losses(done.folder)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert {value.dtype for value in adapter(done.folder).values()} == {torch.float32}


# ---------------------------------------------------------------- optimizer


def first_moment_norm(folder: Path, step: int) -> float:
    states = trainer_state(folder, step)["optimizer"]["state"].values()
    return math.sqrt(sum(float(state["exp_avg"].square().sum()) for state in states))


@pytest.mark.parametrize("limit", [0.25, math.inf])
def test_clipping(home, limit):
    config = tiny(home, training={"steps": 1}, optimizer={"max_grad_norm": limit, "betas": [0.9, 0.999]})
    done = run(config)
    norm = rows(done.folder)[0]["gradient_norm"]
    assert norm > 0.3  # logged before clipping
    assert first_moment_norm(done.folder, 1) == pytest.approx(0.1 * min(norm, limit), rel=1e-4)


Factor = Callable[[int], float]


def factor_of(home: Path, schedule: str, warmup: int, steps: int) -> Factor:
    return learning_rate_factor(
        tiny(home, optimizer={"schedule": schedule, "warmup_steps": warmup}, training={"steps": steps})
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_schedule_after_warm_up(home, schedule, expected):
    factor = factor_of(home, schedule, 3, 7)
    assert [factor(step) for step in range(3)] == pytest.approx([0.25, 0.5, 0.75])
    assert [factor(step) for step in range(3, 7)] == pytest.approx(expected)
    assert factor(7) == pytest.approx(1 if schedule == "constant" else 0, abs=1e-12)


def test_learning_rate_of_a_run_follows_the_schedule(home):
    config = tiny(
        home, optimizer={"schedule": "linear", "warmup_steps": 2, "learning_rate": 3e-4}, training={"steps": 4}
    )
    seen = [row["learning_rate"] for row in rows(run(config).folder)]
    assert seen == pytest.approx([1e-4, 2e-4, 3e-4, 1.5e-4])


def test_ema_is_the_average_and_what_is_saved(home):
    training = {"steps": 4, "ema_decay": 0.6, "checkpoint_every": 1, "keep_checkpoints": 9}
    done = run(tiny(home, training=training))
    policies = [load_file(done.folder / "checkpoints" / f"step-{step}" / "policy.safetensors") for step in range(1, 5)]
    average = policies[0]
    for policy in policies[1:]:
        average = {key: 0.6 * average[key] + 0.4 * policy[key] for key in average}
    kept = load_file(done.folder / "checkpoints" / "step-4" / "ema.safetensors")
    torch.testing.assert_close(kept, average, rtol=1e-5, atol=1e-7)
    saved = {key.removeprefix("unet."): value for key, value in adapter(done.folder).items()}
    assert_equal(saved, kept)
    assert not torch.equal(next(iter(saved.values())), next(iter(policies[-1].values())))
    assert done.view == "ema"


# ---------------------------------------------------------------- what the objective is given


def test_gradients_wait_for_the_last_forward_and_backward(home):
    """DDP decides in the forward pass whether the backward will be synchronised."""
    trainer = build_trainer(tiny(home, training={"accumulation": 2}))
    inside, seen = [False], []

    @contextmanager
    def no_sync(module: torch.nn.Module) -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    trainer.accelerator.no_sync = no_sync
    backward = trainer.accelerator.backward
    trainer.accelerator.backward = lambda loss: seen.append(("backward", inside[0])) or backward(loss)
    trainer.backbone.network.register_forward_pre_hook(
        lambda *_: seen.append(("forward", inside[0])) if torch.is_grad_enabled() else None
    )
    trainer.train_step()
    assert seen == [("forward", True), ("backward", True), ("forward", False), ("backward", False)]


def test_errors_are_measured_in_the_space_of_the_objective(home, monkeypatch):
    def first_error(measure: str | None) -> float:
        monkeypatch.setitem(OBJECTIVES, "sft", replace(OBJECTIVES["sft"], measure=measure))
        return build_trainer(tiny(home, objective={"name": "sft"})).train_step().metrics["winner_error"]

    own = first_error(None)
    assert first_error("noise") == own  # this model predicts the noise
    assert first_error("v") > own  # by 1 / alpha^2


def test_preference_of_the_batch_reaches_the_objective(home, monkeypatch):
    given = []

    def objective(policy: torch.Tensor, *, preference: torch.Tensor) -> ObjectiveOutput:
        given.append(preference)
        return ObjectiveOutput(loss=policy[:, 0] * preference, metrics={})

    monkeypatch.setattr(OBJECTIVES["sft"].params, "needs", ("preference",))
    monkeypatch.setitem(OBJECTIVES, "sft", replace(OBJECTIVES["sft"], function=objective))
    trainer = build_trainer(tiny(home, objective={"name": "sft"}))
    batch = type(trainer.data).batch
    preference = torch.tensor([0.7, 1.0])
    monkeypatch.setattr(
        type(trainer.data), "batch", lambda self, places: replace(batch(self, places), preference=preference)
    )
    trainer.train_step()
    assert torch.equal(given[0], preference)


def test_a_loss_gone_bad_names_its_records_alone(home, monkeypatch):
    """One group with an infinite reference error among four: the others are not to blame."""
    trainer = build_trainer(tiny(home, training={"groups": 4, "steps": 2}))
    micro = trainer._micro_batch(0)
    original = trainer._loss._errors

    def with_one_bad(*inputs: Any, **options: Any) -> DenoisingErrors:
        errors = original(*inputs, **options)
        errors.reference[2] = torch.nan
        return errors

    monkeypatch.setattr(trainer._loss, "_errors", with_one_bad)
    weights = [parameter.clone() for parameter in trainer._parameters]
    with pytest.raises(DivergenceError) as caught:
        trainer.train_step()
    assert [name for name in micro.batch.record_ids if name in str(caught.value)] == [micro.batch.record_ids[2]]
    assert all(torch.equal(*each) for each in zip(weights, trainer._parameters, strict=True))


def test_invalid_members_are_refused_by_name(home, monkeypatch):
    trainer = build_trainer(tiny(home))
    batch = type(trainer.data).batch
    valid = torch.tensor([[True, True], [True, False]])
    monkeypatch.setattr(type(trainer.data), "batch", lambda self, places: replace(batch(self, places), valid=valid))
    wrong = trainer.data.records[trainer._place(1)[1]][0]
    with pytest.raises(DataError, match=rf"latents are not finite in records {wrong};"):
        trainer.train_step()
    assert trainer.step == 0


def test_rewards_of_the_batch_are_logged_whatever_the_split(home):
    settings = [{"groups": 4}, {"groups": 2, "accumulation": 2}]
    trainers = [build_trainer(tiny(home, training=each)) for each in settings]
    rewards = torch.stack([trainers[0].data.latents.reward(trainers[0]._place(each)[1]) for each in range(4)]).double()
    assert rewards.std() > 0
    for trainer in trainers:
        metrics = trainer.train_step().metrics
        assert metrics["reward_mean"] == pytest.approx(rewards.mean().item())
        assert metrics["reward_spread"] == pytest.approx(rewards.std(correction=0).item())
        assert not {"reward_count", "reward_sum", "reward_squares"} & metrics.keys()


def test_no_rewards_no_figures_of_them(home):
    folder = pairs_folder(home / "two pairs", 2)
    metrics = build_trainer(tiny(home, data={"path": str(folder), "resolution": 16})).train_step().metrics
    assert not [name for name in metrics if name.startswith("reward")]


def test_measure_weighs_errors_as_another_prediction_would(home):
    """Noise errors measured as v are larger by 1 / abar, and abar < 1: at step 1 the policy is the reference in both."""
    noise, v = (
        rows(run(tiny(home, training={"groups": 4, "steps": 1, "measure": each})).folder)[0] for each in (None, "v")
    )
    assert noise["loss"] == pytest.approx(math.log(2)) == v["loss"]
    assert v["winner_error"] > 1.05 * noise["winner_error"]
    ratio = v["winner_error"] / v["reference_winner_error"], noise["winner_error"] / noise["reference_winner_error"]
    assert ratio == pytest.approx((1.0, 1.0))
