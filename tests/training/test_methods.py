"""Every offline objective trains the zoo's models from YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffalign.config import parse_config
from diffalign.config.loading import list_configs
from diffalign.exceptions import ConfigError
from diffalign.objectives import OBJECTIVES
from diffalign.training import train
from diffalign.training.build_trainer import build_trainer
from diffalign.training.micro_batch import MicroBatch
from diffalign.training.offline import OfflineTrainer
from tests.training.methods import OFFLINE, QUICK, families, of_records, quickstart, settings, trainer_of
from tests.training.tiny import adapter, rows, tiny, tiny_settings

EVERY = pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, marks=[] if name in QUICK and family == "sd" else pytest.mark.slow)
        for name in OFFLINE
        for family in families(name)
    ],
)


def loss_on(trainer: OfflineTrainer, micros: list[MicroBatch]) -> float:
    """The objective on fixed groups and draws, without gradient."""
    work = trainer._loss
    baseline = work.baseline(iter(micros)) if "baseline" in trainer.config.objective.inputs() else None
    with torch.no_grad():
        losses = []
        for micro in micros:
            errors = work._errors(work._policy, work._reference, micro.batch, micro.draw, residuals=work._residuals)
            losses.append(work._loss(errors, micro, baseline).loss.mean())
    return torch.stack(losses).mean().item()


@EVERY
def test_loss_on_a_fixed_batch_falls(home, name, family):
    """It trains on the very groups and draws that it is judged on: what is tested is that the gradient is its own.

    On the family of its quickstart with all that this sets, but for the size and number of steps.
    """
    if of_records(name).model.family == family:
        small = ("training.groups=8", "training.steps=30", "optimizer.warmup_steps=0")
        trainer = build_trainer(of_records(name, f"folder={home}", f"data.cache={home}/cache", *small))
    else:
        trainer = trainer_of(home, name, family, optimizer={"learning_rate": 3e-3})
    micro = trainer._micro_batch(0)
    trainer._micro_batch = lambda number: micro  # type: ignore[method-assign]
    before = loss_on(trainer, [micro])
    for _ in range(6):
        metrics = trainer.train_step().metrics
        assert all(value == value for value in metrics.values()), metrics
    assert loss_on(trainer, [micro]) < before - 1e-4 * max(1.0, abs(before))


def test_every_method_has_a_quickstart_of_its_own():
    """CI runs those of tests/end_to_end; each is valid (tests/config) and begins to learn (above)."""
    names = {Path(name).stem for name in list_configs() if name.startswith("quickstart/")} - {"shapes_reward"}
    own = {name for name in names if quickstart(name).objective.name == name}
    assert own >= set(OFFLINE) and names - own == {
        "emoji_dpo",
        "ddpo",
        "dragon_vendi",
        "rank_dpo_votes",
        "dso_dpo",
        "dso_dro_scenes",
    }
    for name in names:
        config = quickstart(name)
        assert config.name == name
        assert config.model.path.startswith("zoo://") and config.evaluation.prompts


@pytest.mark.parametrize("name", sorted(name for name, row in OBJECTIVES.items() if row.params.online))
def test_online_objectives_ask_for_their_section_by_name(home, name):
    family = families(name)[-1]
    with pytest.raises(
        ConfigError, match=rf"objective.name: '{name}' learns from what the policy draws .* add the section `online`"
    ):
        parse_config(tiny_settings(home, family=family, objective={"name": name}))


def test_what_cannot_be_trained_is_said_first(home):
    """Whatever else is wrong with a config that was made for another method."""
    settings = tiny_settings(home, family="sd3", objective={"name": "nft", "schedule": "constant"})
    del settings["training"]
    with pytest.raises(ConfigError) as caught:
        parse_config(settings)
    lines = str(caught.value).splitlines()
    assert "'nft' learns from what the policy draws" in lines[1] and len(lines) == 4
    assert lines[2].endswith("to change the method: --set 'objective={name: nft}'") or "objective" in lines[3]
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_settings(home, objective={"name": "flow_rwr", "beta": 1.0}))
    assert "'flow_rwr' needs a flow model" in str(caught.value).splitlines()[1]


MARGIN = {"name": "margin", "threshold": 0.5, "strength": 4.0}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"training": {"two_pass": True}, "model": {"lora": {"dropout": 0.1}}}, "training.two_pass: needs model.lora.drop"),
        ({"objective": {"name": "sft"}, "training": {"reference_bank": 2}}, "training.reference_bank: 'sft' uses no"),
        ({"objective": {"name": "dspo"}, "training": {"reference_bank": 2}}, "training.reference_bank: 'dspo' uses no"),
        ({"time": {"sampling": "stratified"}, "training": {"reference_bank": 2}}, "training.reference_bank: stratified"),
        ({"objective": {"name": "smpo"}, "training": {"pair_weight": MARGIN}}, "'smpo' weighs them by itself; leave"),
        ({"objective": {"name": "rank_dpo"}, "training": {"pair_weight": MARGIN}}, "'rank_dpo' weighs them by itself"),
        ({"objective": {"name": "sft"}, "training": {"pair_weight": MARGIN}}, "pairs, and 'sft' is none on pairs; leave"),
        ({"training": {"pair_weight": {"name": "margin"}}}, "training.pair_weight.threshold: required, but missing"),
        ({"data": {"columns": {"items": "images"}}}, "data.columns.items: is no column of data.kind: pairs, which has"),
        ({"data": {"reward_range": [0, 1]}}, "data.reward_range: scales rewards, and 'diffusion_dpo' takes"),
        ({"objective": {"name": "smpo"}, "data": {"reward_range": [1, 1]}}, "data.reward_range: must be"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(home, sections, says):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_settings(home, **sections))
    assert says in str(caught.value)


def test_soft_preferences_come_from_the_rewards(home):
    """At (almost) equal rewards smpo learns nothing; with hard preferences it does."""
    hard = trainer_of(home, "smpo", "sd", training={"steps": 3, "groups": 4})
    soft = trainer_of(home, "smpo", "sd", training={"steps": 3, "groups": 4}, data={"reward_range": [0.0, 1e6]})
    norms = [trainer.train_step().metrics["gradient_norm"] for trainer in (hard, soft)]
    assert norms[1] < 1e-3 * norms[0]


@pytest.mark.parametrize(
    "weight", [{"name": "margin", "threshold": 0.5, "strength": 4.0}, {"name": "curriculum", "largest_gap": 1.0}]
)
def test_pairs_are_weighed_by_their_rewards(home, weight):
    """The loss of a step is the mean of weight times loss; a curriculum begins with the pairs that are far apart."""
    training = {"steps": 3, "groups": 16}
    plain = trainer_of(home, "diffusion_dpo", "sd", training=training)
    weighed = trainer_of(home, "diffusion_dpo", "sd", training=training | {"pair_weight": weight})
    reward = plain._micro_batch(0).batch.reward
    gap = reward[:, 0] - reward[:, 1]
    expected = 2 * torch.sigmoid(4 * (0.5 - gap)) if weight["name"] == "margin" else (gap >= 2 / 3).float()
    assert 0 < expected.mean() < 2 and expected.std() > 0
    one, two = plain.train_step().metrics, weighed.train_step().metrics
    assert two["pair_weight"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert two["loss"] == pytest.approx(
        one["loss"] * expected.mean().item(), rel=1e-4
    )  # every loss is ln 2 at the start
    weighed.step = 2
    if weight["name"] == "curriculum":
        assert weighed.train_step().metrics["pair_weight"] == 1.0


def test_kto_reads_pairs_as_good_and_bad(home):
    run = train(tiny(home, objective=settings("diffusion_kto"), training={"steps": 2, "groups": 2}), progress=False)
    assert [row["label_accuracy"] for row in rows(run.folder)]
    assert any(part.abs().max() > 0 for key, part in adapter(run.folder).items() if "lora_B" in key)
