"""Every offline objective trains the zoo's models from YAML, in one pass and in two, with and without a reference bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.config import parse_config
from diffalign.exceptions import ConfigError
from diffalign.objectives import OBJECTIVES, get_objective
from diffalign.training import train
from diffalign.training.build import build_backbone, build_data, build_time
from diffalign.training.micro_batch import MicroBatch
from diffalign.training.offline import OfflineTrainer
from diffalign.training.processes import start_accelerator
from tests.data.pictures import pairs_folder, picture_file, write_rows
from tests.training.tiny import adapter, rows, tiny, tiny_settings

OFFLINE = sorted(name for name, row in OBJECTIVES.items() if not row.params.online)
# on the zoo's errors, of 0.01 to 1, the papers' beta saturates or does nothing: these learn within a few steps
SETTINGS: dict[str, dict[str, Any]] = {
    "diffusion_dpo": {"beta": 500.0},
    "flow_dpo": {"beta": 50.0},
    "smpo": {"beta": 100.0, "scale": 5.0},
    "gdro": {"beta": 30.0, "tau": 1.0},
    "rank_dpo": {"beta": 500.0},
    "gdpo_sr": {"beta": 500.0},
    "dragon": {"beta": 500.0},
    "diffusion_kto": {"beta": 500.0},
    "dmpo": {"beta": 500.0},
    "dspo": {"beta": 0.01},
    "sdpo": {"beta": 500.0},
    "ipo": {"beta": 30.0},
    "simpo": {"beta": 50.0},
    "cpo": {"beta": 50.0},
    "f_dpo": {"beta": 500.0},
    "alpha_dpo": {"beta": 500.0},
}


def settings(name: str) -> dict[str, Any]:
    return {"name": name} | SETTINGS.get(name, {})


def families(name: str) -> list[str]:
    return ["sd3"] if OBJECTIVES[name].params.families == "flow" else ["sd", "sd3"]


QUICK = ("gdro", "diffusion_kto", "dspo")  # a group, a batch-wide statistic, residuals; the others are run by CI
EVERY = pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, marks=[] if name in QUICK and family == "sd" else pytest.mark.slow)
        for name in OFFLINE
        for family in families(name)
    ],
)


def trainer_of(home: Path, name: str, family: str, **sections: Any) -> OfflineTrainer:
    sections = {"training": {"steps": 30, "groups": 8}} | sections
    config = tiny(home, family=family, objective=settings(name), **sections)
    backbone = build_backbone(config, torch.device("cpu"))
    data, accelerator = build_data(config, backbone), start_accelerator(config)
    return OfflineTrainer(
        config, backbone, data, get_objective(name), build_time(config, backbone.process), accelerator
    )


def loss_on(trainer: OfflineTrainer, micros: list[MicroBatch]) -> float:
    """The objective on fixed groups and draws, without gradient."""
    work = trainer._loss
    baseline = work.baseline(iter(micros)) if "baseline" in trainer.config.objective.inputs() else None
    with torch.no_grad():
        losses = []
        for micro in micros:
            errors = work._errors(work._policy, work._reference, micro.batch, micro.draw, residuals=work._residuals)
            losses.append(work._loss(errors, micro, baseline)[0].loss.mean())
    return torch.stack(losses).mean().item()


@EVERY
def test_loss_on_a_fixed_batch_falls(home, name, family):
    """It trains on the very groups and draws that it is judged on: what is tested is that the gradient is its own."""
    trainer = trainer_of(home, name, family, optimizer={"learning_rate": 3e-3})
    micro = trainer._micro_batch(0)
    trainer._micro_batch = lambda number: micro  # type: ignore[method-assign]
    before = loss_on(trainer, [micro])
    for _ in range(6):
        metrics = trainer.train_step().metrics
        assert all(value == value for value in metrics.values()), metrics
    assert loss_on(trainer, [micro]) < before - 1e-4 * max(1.0, abs(before))


ERRORS_ONLY = [name for name in OFFLINE if OBJECTIVES[name].params.first == "policy"]


@pytest.mark.parametrize(
    ("name", "max_batch"),
    [pytest.param(name, 3, marks=[] if name in QUICK else pytest.mark.slow) for name in ERRORS_ONLY] + [("gdro", None)],
)
def test_two_passes_equal_one(home, name, max_batch):
    family = families(name)[0]
    gradients = []
    for training in ({}, {"two_pass": True, "max_batch": max_batch}):
        trainer = trainer_of(home, name, family, training={"steps": 3, "groups": 2, "accumulation": 2} | training)
        trainer.train_step()  # B is 0 before: then A has no gradient
        seen: list[torch.Tensor] = []
        step = trainer._optimizer.step

        def note(step=step, seen=seen, parameters=trainer._parameters) -> None:
            seen.extend(parameter.grad.clone() for parameter in parameters)
            step()

        trainer._optimizer.step = note
        metrics = trainer.train_step().metrics
        gradients.append((seen, metrics["loss"]))
    (one, loss), (two, other) = gradients
    assert other == pytest.approx(loss, rel=1e-4, abs=1e-6)
    scale = max(part.abs().max() for part in one)
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4 * scale.item())


def test_two_passes_ask_for_no_more_than_a_chunk_with_gradient(home):
    trainer = trainer_of(home, "diffusion_dpo", "sd", training={"steps": 3, "groups": 3, "two_pass": True})
    sizes = []

    def note(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        sizes.append((torch.is_grad_enabled(), len(inputs[0])))

    trainer.backbone.network.register_forward_hook(note)
    trainer.train_step()
    assert [size for grad, size in sizes if grad] == [1] * 6
    assert [size for grad, size in sizes if not grad] == [6, 6]  # policy and reference, once each


@pytest.mark.parametrize(("name", "family"), [("diffusion_dpo", "sd"), ("flow_dpo", "sd3")])
def test_bank_gives_the_gradients_of_the_live_reference(home, tmp_path, monkeypatch, name, family):
    """Epochs repeat with period 2; mirrored pictures and empty prompts are drawn again as they were, too."""
    data = {"path": str(pairs_folder(tmp_path / "pairs", 5)), "flip": True, "empty_prompt_share": 0.3}
    training = {"steps": 9, "groups": 2}
    live = trainer_of(home, name, family, training=training, data=data)
    banked = trainer_of(home, name, family, training=training | {"reference_bank": 2}, data=data)
    place = live._place

    def repeated(position: int) -> tuple[int, int]:
        epoch, number = place(position)
        return epoch % 2, number

    monkeypatch.setattr(live, "_place", repeated)
    calls: list[bool] = []
    banked.backbone.network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for _ in range(9):  # of 5 records, 2 a step: three epochs and more
        one, two = live.train_step().metrics, banked.train_step().metrics
        for figure in ("loss", "gradient_norm", "reference_winner_error", "reference_loser_error"):
            assert two[figure] == pytest.approx(one[figure], rel=1e-3, abs=1e-6), figure
    assert calls == [True] * 9  # the policy, and no reference


def test_bank_is_read_again_and_made_anew_for_other_draws(home, tmp_path, caplog):
    data = {"path": str(pairs_folder(tmp_path / "pairs", 3)), "cache": str(tmp_path / "cache")}
    training = {"steps": 3, "groups": 2, "reference_bank": 2}

    def filled(**sections: Any) -> bool:
        caplog.clear()
        with caplog.at_level("INFO"):
            trainer_of(home, "diffusion_dpo", "sd", training=training, data=data, **sections)
        return "reference bank: epoch" in caplog.text

    assert filled()
    assert not filled()
    assert not filled(optimizer={"learning_rate": 1e-5})
    assert filled(seed=1)
    assert filled(time={"sampling": "shifted", "shift": 3.0})
    assert not filled(seed=1)
    for file in (tmp_path / "cache").glob("reference-*/1.safetensors"):
        file.write_bytes(file.read_bytes()[:20])
    assert filled() and "cannot be read" in caplog.text


@pytest.mark.parametrize("name", sorted(name for name, row in OBJECTIVES.items() if row.params.online))
def test_online_objectives_are_refused_by_name(home, name):
    family = families(name)[-1]
    with pytest.raises(ConfigError, match=rf"objective.name: '{name}' learns from the policy's own samples"):
        parse_config(tiny_settings(home, family=family, objective={"name": name}))


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"objective": {"name": "dspo"}, "training": {"two_pass": True}}, "training.two_pass: needs an objective of"),
        ({"training": {"two_pass": True}, "model": {"lora": {"dropout": 0.1}}}, "training.two_pass: needs model.lora.drop"),
        ({"objective": {"name": "sft"}, "training": {"reference_bank": 2}}, "training.reference_bank: 'sft' uses no"),
        ({"objective": {"name": "dspo"}, "training": {"reference_bank": 2}}, "training.reference_bank: 'dspo' uses no"),
        ({"time": {"sampling": "stratified"}, "training": {"reference_bank": 2}}, "training.reference_bank: stratified"),
        ({"data": {"reward_range": [0, 1]}}, "data.reward_range: makes soft preferences, and 'diffusion_dpo' takes none"),
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


def test_kto_reads_pairs_as_good_and_bad(home):
    run = train(tiny(home, objective=settings("diffusion_kto"), training={"steps": 2, "groups": 2}), progress=False)
    assert [row["label_accuracy"] for row in rows(run.folder)]
    assert any(part.abs().max() > 0 for key, part in adapter(run.folder).items() if "lora_B" in key)


LABELLED = [{"id": f"r{n}", "prompt": f"p{n}", "item": f"{n}.png", "label": ("good", "bad")[n % 2]} for n in range(4)]


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"name": "diffusion_kto", "beta": 500.0}, None),
        ({"name": "dragon", "contrast": "kto", "beta": 500.0}, None),
        ({"name": "dso_dro"}, None),
        ({"name": "dragon"}, "objective.contrast: dpo compares the members of a group"),
        ({"name": "diffusion_dpo"}, "objective.name: 'diffusion_dpo' makes nothing of labels"),
        ({"name": "sft"}, "objective.name: 'sft' makes nothing of labels"),
        ({"name": "gdro"}, "objective.name: 'gdro' learns from rewards"),
    ],
)
def test_labelled_samples(home, tmp_path, objective, says):
    for number, row in enumerate(LABELLED):
        (tmp_path / row["item"]).write_bytes(picture_file(number))
    write_rows(tmp_path / "metadata.jsonl", LABELLED)
    data = {"path": str(tmp_path), "kind": "labelled"}
    config = tiny(home, objective=objective, data=data, training={"steps": 2, "groups": 4})
    if says is None:
        done = rows(train(config, progress=False).folder)
        assert done[1]["loss"] != done[0]["loss"]
        assert "winner_error" not in done[0]
    else:
        with pytest.raises(ConfigError) as caught:
            train(config, progress=False)
        assert says in str(caught.value)


def test_groups_of_pictures_with_members_drawn(home, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(picture_file(number))
    items = [f"{number}.png" for number in range(6)]
    groups = [
        {"id": "a", "prompt": "p", "items": items, "rewards": [0.1, 0.9, None, 0.4, 0.5, 0.2]},
        {"id": "b", "prompt": "q", "items": items[:4], "rewards": [3, 1, 2, 0]},
    ]
    write_rows(tmp_path / "metadata.jsonl", groups)
    data = {"path": str(tmp_path), "kind": "groups", "members": 3}
    run = train(tiny(home, objective=settings("rank_dpo"), data=data), progress=False)
    assert [row["pair_accuracy"] for row in rows(run.folder)]
