"""The online loop: rounds of what the policy draws, on the zoo's models."""

from __future__ import annotations

import pytest
import torch

from diffalign.config import with_absolute_paths
from diffalign.exceptions import ConfigError, RunInterrupted
from diffalign.training import resume, train
from diffalign.training.build_trainer import build_trainer
from diffalign.training.online import OnlineTrainer
from diffalign.training.round_draws import trained_steps
from diffalign.training.trainer import StepResult
from tests.training.online import DDIM, online
from tests.training.tiny import assert_same_run, rows

D3PO = {"name": "d3po"}
DPO = {"name": "diffusion_dpo", "beta": 500.0}
ON_ERRORS = {
    "nft": {"name": "nft"},
    "awm": {"name": "awm"},
    "dgpo": {"name": "dgpo"},
    "crd": {"name": "crd"},
    "diffusion_dpo": DPO,
    "gdro": {"name": "gdro", "beta": 30.0},
    "dragon": {"name": "dragon", "contrast": "kto"},
    "sft": {"name": "sft"},
}


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.backbone.trained_parameters()]


def test_before_the_first_step_d3po_knows_nothing(tmp_path):
    """The policy is the reference: every ratio is exactly 1, so the loss is ln 2 and the margin 0, to the bit."""
    metrics = build_trainer(online(tmp_path, D3PO)).train_step().metrics
    assert metrics["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-7)
    assert metrics["margin"] == 0.0 and metrics["gradient_norm"] > 0


def test_before_the_first_step_every_ratio_is_one(tmp_path):
    """Of flow_grpo's objective on DDIM's steps, which is DDPO: the behaviour is the policy."""
    config = online(tmp_path, {"name": "flow_grpo"}, online={"guidance_scale": 2.0, "passes": 2})
    trainer = build_trainer(config)
    metrics = trainer.train_step().metrics
    assert metrics["ratio"] == 1.0 and metrics["approx_kl"] == 0.0
    assert trainer.train_step().metrics["ratio"] != 1.0  # the second pass is after a step


@pytest.mark.parametrize("objective", [D3PO, {"name": "flow_grpo", "kl_weight": 0.1, "guard": True}])
def test_fewer_samples_at_a_time_are_the_same_step(tmp_path, objective):
    """`max_batch` changes the memory and not the gradient; the first ratio stays 1 to the bit, the margin 0."""
    settings = {"members": 2 if objective is D3PO else 3, "guidance_scale": 2.0}
    told = []
    for most in (None, 2):
        trainer = build_trainer(online(tmp_path, objective, online=settings, training={"max_batch": most}))
        told.append(trainer.train_step().metrics)
    assert told[1].get("ratio", 1.0) == 1.0 and told[1].get("margin", 0.0) == 0.0
    assert told[1]["gradient_norm"] == pytest.approx(told[0]["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "name", ["nft", pytest.param("awm", marks=pytest.mark.slow), pytest.param("crd", marks=pytest.mark.slow)]
)
def test_two_passes_equal_one(tmp_path, name):
    """Of residuals and divergences as of errors: the same gradient, one sample at a time."""
    family = "sd3" if name == "nft" else "sd"
    norms = []
    for training in ({}, {"two_pass": True, "max_batch": 2}):
        trainer = build_trainer(online(tmp_path, ON_ERRORS[name], family, online={"members": 3}, training=training))
        norms.append([trainer.train_step().metrics["gradient_norm"] for _ in range(2)])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize("name", ON_ERRORS)
def test_every_method_on_errors_learns_from_rounds(tmp_path, name):
    """Two rounds: the first draws with the model as it was, the second with what it has become."""
    family = "sd3" if name == "nft" else "sd"
    trainer = build_trainer(online(tmp_path, ON_ERRORS[name], family, online={"members": 3, "draws": 1}))
    before = weights(trainer)
    first, second = trainer.train_step().metrics, trainer.train_step().metrics
    assert first["round"] == 0 and second["round"] == 1
    assert all(torch.tensor(list(metrics.values())).isfinite().all() for metrics in (first, second))
    silent = first["silent_prompts"] + second["silent_prompts"]
    assert silent < 4 or name not in ("diffusion_dpo", "dragon")  # of all four prompts, some pair is told apart
    changed = [not torch.equal(*each) for each in zip(before, weights(trainer), strict=True)]
    assert any(changed) is bool(first["gradient_norm"] or second["gradient_norm"]) and first["gradient_norm"] > 0


def test_pictures_follow_from_seed_round_and_prompt_alone(tmp_path):
    """However the groups are spread over forwards, the same pictures are drawn; other rounds draw others."""
    split = [{"groups": 4}, {"groups": 2, "accumulation": 2}]
    trainers = [build_trainer(online(tmp_path, DPO, training=each)) for each in split]
    for trainer in trainers:
        trainer._begin_step()
    drawn = [
        torch.cat([trainer._rounds[0].chunks[n].x0 for n in sorted(trainer._rounds[0].chunks)]) for trainer in trainers
    ]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=1e-4)
    assert not torch.equal(drawn[0][0, 0], drawn[0][0, 1])


def test_accumulation_equals_the_big_batch(tmp_path):
    split = [{"groups": 4}, {"groups": 2, "accumulation": 2}, {"groups": 1, "accumulation": 4}]
    norms = []
    for each in split:
        metrics = build_trainer(online(tmp_path, DPO, training=each)).train_step().metrics
        norms.append((metrics["loss"], metrics["gradient_norm"], metrics["silent_prompts"]))
    for other in norms[1:]:
        assert other == pytest.approx(norms[0], rel=2e-3)


def test_passes_train_on_one_round_and_rounds_are_kept(tmp_path):
    """Two passes over 4 prompts by 2 are 4 steps; with one more round kept, later passes may take its groups."""
    config = online(
        tmp_path, DPO, online={"prompts": 4, "passes": 2, "keep_rounds": 2}, training={"groups": 2, "steps": 8}
    )
    trainer = build_trainer(config)
    rounds = []
    seen: list[tuple[str, ...]] = []
    for _ in range(8):
        result = trainer.train_step()
        seen.append(result.record_ids)
        if "seconds_per_round" in result.metrics:
            rounds.append(trainer.step)
    assert rounds == [1, 5]
    assert sorted([*seen[0], *seen[1]]) == sorted([*seen[2], *seen[3]])  # of the first round there is but one to take
    old, new = {*seen[0], *seen[1]}, {*seen[4], *seen[5]}
    assert not old & new and {*seen[6], *seen[7]} <= old | new


def test_draws_are_a_mean_over_times_and_noises(tmp_path):
    """A group trained on at two draws has the mean of the two gradients."""
    trainer = build_trainer(online(tmp_path, DPO, online={"draws": 2}))
    trainer._begin_step()
    gradients = []
    for chosen in ((0, 1), (0,), (1,)):
        for draw in chosen:
            trainer._loss.backward(trainer._micro_batch(0, draw), lambda: trainer._dropout_draws(0), None)
        gradients.append([each.grad.clone() for each in trainer._parameters])
        for each in trainer._parameters:
            each.grad = None
    both, first, second = gradients
    for mean, one, other in zip(both, first, second, strict=True):  # each alone has half of its weight
        torch.testing.assert_close(mean, one + other)
    assert not torch.equal(trainer._micro_batch(0, 0).draw.noise, trainer._micro_batch(0, 1).draw.noise)
    assert trainer._micro_batch(0, 0).share == 0.5


def test_scheduled_times_are_the_samplers_each_once(tmp_path):
    config = online(tmp_path, DPO, online={"draws": 3}, time={"sampling": "schedule"})
    trainer = build_trainer(config)
    trainer._begin_step()
    times = torch.stack([trainer._micro_batch(0, draw).draw.t[:, 0] for draw in range(3)])
    expected = trainer._generator.times[:-1].sort().values
    for group in times.T:
        torch.testing.assert_close(group.sort().values, expected)


def test_the_first_and_last_times_of_a_schedule_may_be_left_out(tmp_path):
    """AWM leaves out the first and the last two of 14."""
    skips = {"sampling": "schedule", "skip_first": 1, "skip_last": 1}
    trainer = build_trainer(online(tmp_path, DPO, online={"draws": 2}, time=skips))
    trainer._begin_step()
    assert (trainer._micro_batch(0, 0).draw.t == trainer._generator.times[1]).all()


def test_trained_steps_are_drawn_for_each_group(tmp_path):
    config = online(tmp_path, D3PO, online={"trained_steps": 2, "skip_last": 1, "sampler": DDIM | {"steps": 8}})
    trainer = build_trainer(config)
    trainer._begin_step()
    chunk = trainer._rounds[0].chunks[0]
    steps = trained_steps(trainer.config, chunk, 0)
    assert steps.shape == (2, 2) and int(steps.max()) < 7
    assert all(len(set(column)) == 2 for column in steps.T.tolist())


def test_members_of_a_pair_start_from_one_noise_where_asked(tmp_path):
    for same in (True, False):
        trainer = build_trainer(online(tmp_path, D3PO, online={"same_start": same}))
        trainer._begin_step()
        states = trainer._rounds[0].chunks[0].trajectory.states
        assert torch.equal(states[0, :, 0], states[0, :, 1]) is same
        assert not torch.equal(states[-1, :, 0], states[-1, :, 1])


def test_the_reference_may_follow_the_policy(tmp_path):
    """Renewed at every round, it is the policy at each round's beginning: margin 0 again."""
    for every, zero in ((1, True), (None, False)):
        trainer = build_trainer(online(tmp_path, D3PO, online={"reference_every": every}))
        trainer.train_step()
        assert (trainer.train_step().metrics["margin"] == 0.0) is zero


def test_the_network_that_draws_may_lag_behind(tmp_path):
    """With `policy_sync_every: 2` the second round is drawn by the first round's policy, the third by the newest."""
    trainer = build_trainer(online(tmp_path, DPO, online={"policy_sync_every": 2}))
    states = []
    for _ in range(3):
        trainer.train_step()
        states.append({name: value.clone() for name, value in trainer.backbone.state("behaviour").items()})
    same = [all(torch.equal(states[a][name], states[b][name]) for name in states[0]) for a, b in ((0, 1), (1, 2))]
    assert same == [True, False]


MOVING = {"length": 2, "schedule": "progressive", "every": 1}
RESUMED = {
    "trajectories in mid-round": (D3PO, "sd", {"passes": 2}, {}),
    "kept rounds": (DPO, "sd", {"passes": 2, "keep_rounds": 2}, {}),
    "slow behaviour": (
        {"name": "nft"},
        "sd3",
        {"passes": 2, "policy_decay": {"largest": 0.5}, "reference_every": 1},
        {"ema_decay": 0.9},
    ),
    "window that moves": (
        {"name": "flow_grpo"},
        "sd3",
        {"sampler": {"name": "flow_sde", "steps": 4, "window": MOVING}},
        {},
    ),
    "set reward": (DPO, "sd", {"passes": 2, "set_reward": {"name": "vendi"}}, {}),
    "average": ({"name": "awm"}, "sd", {"passes": 2, "average_decay": {"slope": 0.1, "largest": 0.3}}, {}),
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_resume_is_equal_to_the_bit(tmp_path, case, stop):
    """Stopped in the middle of a round (3) or between two (2), what was drawn comes back from the checkpoint."""
    objective, family, settings, training = RESUMED[case]
    config = online(tmp_path, objective, family, online=settings, training={"steps": 4, "groups": 2} | training)
    whole = train(config, progress=False)
    original = OnlineTrainer.train_step

    def stopping(self: OnlineTrainer) -> StepResult:
        if self.step == stop:
            raise KeyboardInterrupt
        return original(self)

    folders = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyboardInterrupt, RunInterrupted)):
        patch.setattr(OnlineTrainer, "train_step", stopping)
        train(
            config.model_copy(update={"training": config.training.model_copy(update={"checkpoint_every": 1})}),
            progress=False,
            announce=folders.append,
        )
    gone_on = resume(folders[0], progress=False)
    assert_same_run(whole.folder, gone_on.folder, 4)
    assert len(rows(gone_on.folder)) == 4


def test_a_reference_set_is_found_from_any_folder(tmp_path, monkeypatch):
    """config.yaml of the run folder names it by its whole path."""
    (tmp_path / "good").mkdir()
    monkeypatch.chdir(tmp_path)
    judge = {"name": "frechet", "reference": "good"}
    config = online(tmp_path, {"name": "dragon", "contrast": "dpo"}, online={"set_reward": judge})
    assert with_absolute_paths(config).online.set_reward.reference == str(tmp_path / "good")


def test_a_round_of_several_forwards_is_saved_and_gone_on_with(tmp_path):
    """In mid-round, with as many groups in a forward as before or with others: the same pictures are trained on."""
    training = {"steps": 4, "groups": 2, "accumulation": 2, "checkpoint_every": 3}
    whole = train(online(tmp_path, D3PO, online={"passes": 2}, training=training), progress=False)
    config = online(tmp_path, D3PO, online={"passes": 2}, training=training | {"steps": 3})
    folder = train(config, progress=False).folder
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(settings.replace("steps: 3\n  groups", "steps: 4\n  groups"))
    assert_same_run(whole.folder, resume(folder, progress=False).folder, 4)


def test_rewards_on_another_scale_than_the_objective_takes_are_refused(tmp_path):
    """rank_dpo's gains are of rewards in [0, 1]: file sizes would be taken for them without a word."""
    rank = {"name": "rank_dpo", "beta": 500.0}
    with pytest.raises(ConfigError, match=r"online.rewards: 'rank_dpo' takes one number in \[0, 1\]"):
        build_trainer(online(tmp_path, rank, online={"rewards": [{"name": "jpeg"}], "members": 3}))
    build_trainer(online(tmp_path, rank, online={"members": 3}))  # the graded scene is on it
    size = {"rewards": [{"name": "jpeg", "direction": "incompressible"}]}
    with pytest.raises(ConfigError, match=r"objective.weighting: exp\(reward / temperature\) of these rewards \(jpeg"):
        build_trainer(online(tmp_path, {"name": "flow_rwr"}, "sd3", online=size))
    fine = {"rewards": [{"name": "jpeg"}, {"name": "scene"}], "members": 3, "combine": "votes"}
    build_trainer(online(tmp_path, rank, online=fine))


def test_no_step_that_adds_noise_is_left(tmp_path):
    """Of a flow the last of three steps, to t = 0, adds none."""
    trainer = build_trainer(online(tmp_path, D3PO, "sd3", online={"skip_last": 2}))
    with pytest.raises(ConfigError, match=r"online.skip_last: leaves out all 2 steps"):
        trainer.train_step()


def test_what_only_a_set_is_judged_by_has_no_reward_of_its_own(tmp_path):
    dragon = {"name": "dragon", "contrast": "dpo", "beta": 500.0}
    trainer = build_trainer(online(tmp_path, dragon, online={"rewards": [], "set_reward": {"name": "vendi"}}))
    metrics = trainer.train_step().metrics
    assert "reward_mean" not in metrics and metrics["positive_set"] >= metrics["first_set"]
