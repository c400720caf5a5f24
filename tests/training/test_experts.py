"""Diffusion-DRO's loop: a record's picture against a step of the policy's own sampling path."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import add_noise
from diffalign.exceptions import ConfigError, RunInterrupted
from diffalign.training import resume, train
from diffalign.training.build_trainer import build_trainer
from diffalign.training.experts import ExpertTrainer
from diffalign.training.trainer import StepResult
from tests.data.pictures import picture_file, write_rows
from tests.training.tiny import assert_same_run, shared_cache, tiny

DRO = {"name": "diffusion_dro"}


def experts(home, family="sd", **sections):
    sampler = {"name": "ddim", "steps": 4} if family == "sd" else {"name": "flow_euler", "steps": 4}
    settings = {"data": {"kind": "groups", "cache": shared_cache()}, "objective": DRO, "online": {"sampler": sampler}}
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section
    return tiny(home, family=family, **settings)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_in_sync_the_own_samples_teach_nothing(tmp_path, family):
    """The card's surprise: the target is the policy's own prediction, so its error and gradient are 0."""
    metrics = build_trainer(experts(tmp_path, family)).train_step().metrics
    assert metrics["loser_error"] < 1e-9 and metrics["own_gradient_norm"] < 1e-4 * metrics["expert_gradient_norm"]
    assert metrics["expert_gradient_norm"] > 0
    torch.testing.assert_close(metrics["gradient_norm"], metrics["expert_gradient_norm"], atol=1e-4, rtol=1e-3)


def test_a_policy_that_lags_or_is_guided_pushes_back(tmp_path):
    lagging = build_trainer(experts(tmp_path, online={"policy_sync_every": 4}))
    guided = build_trainer(experts(tmp_path, online={"guidance_scale": 3.0}))
    assert lagging.train_step().metrics["own_gradient_norm"] < 1e-6
    assert lagging.train_step().metrics["own_gradient_norm"] > 1e-6
    assert guided.train_step().metrics["own_gradient_norm"] > 1e-4


def test_the_pair_is_on_the_path_and_at_one_time(tmp_path):
    """x_t of member 1 is a state of the path; the expert is noised to the same time, with noise of its own."""
    trainer = build_trainer(experts(tmp_path))
    batch = trainer.data.batch([trainer._place(position) for position in trainer._positions(0)])
    best = build_trainer(experts(tmp_path)).data.batch([(0, 0)])
    assert best.members == 4
    from diffalign.training.experts import _experts

    one = _experts(batch)
    path = trainer._path(one)
    micro = trainer._paired(one, path, 0, 0)
    t = micro.draw.t
    assert torch.equal(t[:, 0], t[:, 1])
    process = trainer.backbone.process
    x_t = add_noise(process, micro.batch.x0.flatten(0, 1), micro.draw.noise.flatten(0, 1), t.flatten())
    x_t = x_t.unflatten(0, t.shape)
    for group in range(len(t)):
        step = int((path.times[:, group, 0] == t[group, 0]).nonzero()[0])
        torch.testing.assert_close(x_t[group, 1], path.states[step, group, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(micro.batch.x0[:, 0], batch.x0[:, 0])
    assert not torch.allclose(micro.draw.noise[:, 0], micro.draw.noise[:, 1])


def test_times_are_moved_by_one_share_of_a_step(tmp_path):
    """As the authors' "multiples of 50 plus one offset": descending, on the network's own grid, each group its own."""
    trainer = build_trainer(experts(tmp_path))
    times = trainer._times([torch.Generator().manual_seed(seed) for seed in range(40)])[..., 0]
    plain = trainer._generator.times
    assert (times[:-1] >= plain[:-1, None]).all() and (times.diff(dim=0) < 0).all() and times.max() <= 1
    entries = trainer.backbone.process.entries
    torch.testing.assert_close(times * entries, (times * entries).round(), atol=1e-3, rtol=0)
    assert len(times[1].unique()) > 20
    assert torch.equal(times[-1], plain[-1].expand(40))


def test_loss_is_the_margin_and_both_gaps_where_the_hinge_is_open(tmp_path):
    """In sync the policy's error on its own sample is what it is, and a large margin keeps every group's hinge open."""
    trainer = build_trainer(experts(tmp_path, objective={"margin": 100.0}))
    metrics = trainer.train_step().metrics
    assert metrics["active"] == 1.0
    policy, reference = metrics["winner_error"], metrics["reference_winner_error"]
    assert metrics["loss"] == pytest.approx(100 + policy - reference + metrics["reference_loser_error"], rel=1e-5)


def test_resume_is_equal_to_the_bit(tmp_path):
    """Also of the network that draws, which is older than the last step."""
    config = experts(tmp_path, online={"policy_sync_every": 3}, training={"steps": 4, "checkpoint_every": 2})
    whole = train(config, progress=False)
    original = ExpertTrainer.train_step

    def stopping(self: ExpertTrainer) -> StepResult:
        if self.step == 2:
            raise KeyboardInterrupt
        return original(self)

    folders = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyboardInterrupt, RunInterrupted)):
        patch.setattr(ExpertTrainer, "train_step", stopping)
        train(config, progress=False, announce=folders.append)
    assert_same_run(whole.folder, resume(folders[0], progress=False).folder, 4)


@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("data.kind", {"data": {"kind": "prompts"}}),
        ("online.rewards", {"online": {"rewards": [{"name": "scene"}]}}),
        ("online.passes", {"online": {"passes": 2}}),
        ("training.two_pass", {"training": {"two_pass": True}}),
        ("time", {"time": {"sampling": "logit_normal"}}),
    ],
)
def test_what_does_not_fit_is_said_with_its_path(tmp_path, path, sections):
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
        experts(tmp_path, **sections)


def test_bad_samples_are_no_experts(tmp_path):
    records = [{"prompt": "a red circle", "item": f"{number}.png", "label": label} for number, label in enumerate("gb")]
    for record, label in zip(records, ("good", "bad"), strict=True):
        record["label"] = label
        (tmp_path / record["item"]).write_bytes(picture_file(100, (32, 32), "PNG"))
    write_rows(tmp_path / "metadata.jsonl", records)
    config = experts(tmp_path, data={"kind": "labelled", "path": str(tmp_path)}, training={"groups": 1})
    with pytest.raises(ConfigError, match=r"data.path: 1 of the 2 samples .* are bad"):
        build_trainer(config)
