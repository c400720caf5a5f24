"""Records of every kind, and which objective takes them."""

from __future__ import annotations

from typing import Any

import pytest

from diffalign.exceptions import ConfigError
from diffalign.training import train
from diffalign.training.build_trainer import build_trainer
from tests.data.pictures import groups_folder, pairs_folder, picture_file, write_rows
from tests.training.methods import settings, trainer_of
from tests.training.tiny import rows, tiny

MARGIN = {"name": "margin", "threshold": 0.5, "strength": 4.0}
LABELLED = [{"id": f"r{n}", "prompt": f"p{n}", "item": f"{n}.png", "label": ("good", "bad")[n % 2]} for n in range(4)]


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"name": "diffusion_kto", "beta": 500.0}, None),
        ({"name": "dragon", "contrast": "kto", "beta": 500.0}, None),
        ({"name": "dso_dro"}, None),
        ({"name": "dragon"}, "objective.contrast: dpo compares the members of a group"),
        ({"name": "diffusion_dpo"}, "objective.name: 'diffusion_dpo' makes nothing of labels"),
        ({"name": "sft"}, "objective.name: 'sft' would learn bad samples like good ones, and 2 of the 4"),
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
    with pytest.raises(
        ConfigError, match=r"takes rewards in .0, 1., and record 'b' has 3, 2, 1, 0; set data.reward_range"
    ):
        train(tiny(home, objective=settings("rank_dpo"), data=data), progress=False)
    data["reward_range"] = [0, 3]
    run = train(tiny(home, objective=settings("rank_dpo"), data=data), progress=False)
    assert [row["pair_accuracy"] for row in rows(run.folder)]


@pytest.mark.parametrize(
    ("rewards", "sections", "says"),
    [
        ([1.0, None], {}, "compares two members, and record 'a' has one without a reward; set data.members: 2 and"),
        ([2.0, 1.0], {}, None),
        ([1.0, None], {"objective": {"name": "sft"}}, None),
        (
            None,
            {"training": {"steps": 2, "groups": 1, "pair_weight": MARGIN}},
            "training.pair_weight: goes by rewards, and",
        ),
    ],
)
def test_pairs_of_two_scored_members(home, tmp_path, rewards, sections, says):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture_file(number))
    row: dict[str, Any] = {"id": "a", "prompt": "p"}
    if rewards is None:
        write_rows(tmp_path / "metadata.jsonl", [row | {"chosen": "0.png", "rejected": "1.png"}])
    else:
        write_rows(tmp_path / "metadata.jsonl", [row | {"items": ["0.png", "1.png"], "rewards": rewards}])
    data = {"path": str(tmp_path), "kind": "pairs" if rewards is None else "groups"}
    config = tiny(home, data=data, **{"training": {"steps": 2, "groups": 1}} | sections)
    if says is None:
        assert len(rows(train(config, progress=False).folder)) == 2
    else:
        with pytest.raises(ConfigError) as caught:
            train(config, progress=False)
        assert says in str(caught.value)


@pytest.mark.parametrize("name", ["gdro", "rank_dpo"])
def test_rewards_are_scaled_to_the_range_and_cut(home, name):
    """Of 0 to 2 on the zoo: with a range that all of them lie above, all are tied."""
    seen = []
    for span in ([0.0, 2.0], [0.0, 1.95], [0.0, 1e6]):
        data = {"kind": "groups", "reward_range": span}
        trainer = trainer_of(home, name, "sd", data=data, training={"steps": 2, "groups": 4})
        seen.append(trainer.train_step().metrics)
    figure = {"gdro": "reward_margin", "rank_dpo": "weight_sum"}[name]
    assert seen[0][figure] > 0.1 > 1e-4 > seen[2][figure]
    assert seen[1][figure] != seen[0][figure]
    assert seen[0]["reward_mean"] == seen[2]["reward_mean"] > 0.5  # what the log shows is the reward as it came


GROUPS = [[20.0, 21.0, 22.0], [23.0, 22.5, 20.5]]


@pytest.mark.parametrize(
    ("objective", "data", "says"),
    [
        (
            {"name": "rank_dpo"},
            {"reward_range": [0, 2]},
            "6 of the 6 rewards of .* are not in .0, 2.*from 20 to 23: name",
        ),
        ({"name": "gdro"}, {"reward_range": [0, 2]}, "data.reward_range: 6 of the 6 rewards"),
        ({"name": "gdro"}, {"reward_range": [20, 23]}, None),
        ({"name": "flow_rwr", "temperature": 0.2}, {}, "objective.weighting: exp.reward / temperature. of record 'g0'"),
        ({"name": "flow_rwr", "temperature": 0.2}, {"reward_range": [20, 23]}, None),
        ({"name": "flow_rwr", "temperature": 0.2, "weighting": "softmax"}, {}, None),
        (
            {"name": "flow_rwr", "temperature": 0.01},
            {"reward_range": [20, 23]},
            "objective.temperature: exp.1 / 0.01., the",
        ),
        ({"name": "smpo"}, {"reward_range": [100, 200], "members": 2}, "data.reward_range: 6 of the 6 rewards"),
        ({"name": "smpo"}, {"reward_range": [20, 23], "members": 2}, None),
    ],
)
def test_scale_of_raw_rewards(home, tmp_path, objective, data, says):
    folder = groups_folder(tmp_path / "groups", GROUPS)
    sections = {"objective": objective, "data": {"path": str(folder), "kind": "groups"} | data}
    config = tiny(home, family="sd3", training={"steps": 1, "groups": 1}, **sections)
    if says is None:
        build_trainer(config)
    else:
        with pytest.raises(ConfigError, match=says):
            build_trainer(config)


@pytest.mark.parametrize(
    ("objective", "labels", "says"),
    [
        ("sft", ["good", "good"], None),
        ("sft", ["good", "bad"], "error: 'sft' would learn bad samples like good ones, and 1 of the 2 samples"),
        ("diffusion_kto", ["good", "good"], "warning: all 2 samples are good: there is nothing to tell apart"),
        ("diffusion_kto", ["good", "bad"], None),
    ],
)
def test_labels_that_fit_the_objective(home, tmp_path, caplog, objective, labels, says):
    rows = [{"prompt": "p", "item": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    for number, row in enumerate(rows):
        (tmp_path / str(row["item"])).write_bytes(picture_file(number))
    write_rows(tmp_path / "metadata.jsonl", rows)
    config = tiny(home, objective={"name": objective}, data={"path": str(tmp_path), "kind": "labelled"})
    kind, _, text = (says or "").partition(": ")
    if kind == "error":
        with pytest.raises(ConfigError) as caught:
            build_trainer(config)
        assert text in str(caught.value)
    else:
        build_trainer(config)
        assert text in caplog.text
        assert ("nothing to tell apart" in caplog.text) == (kind == "warning")


def test_smpo_without_soft_preferences_is_warned_of(home, tmp_path, caplog):
    said = {
        "votes": {"votes": {"a": 3, "b": 1}},
        "preference": {"preference": 0.6},
        "sure": {"votes": {"a": 3, "b": 0}},
    }
    for name, columns in said.items():
        warned = name == "sure"
        caplog.clear()
        folder = pairs_folder(tmp_path / name, 2, **columns)
        build_trainer(tiny(home, objective={"name": "smpo"}, data={"path": str(folder)}))
        assert ("every preference is 1" in caplog.text) == warned


def test_groups_of_one_have_nothing_to_compare(home, tmp_path):
    folder = groups_folder(tmp_path / "groups", [[1.0], [2.0]])
    config = tiny(home, objective={"name": "gdro"}, data={"path": str(folder), "kind": "groups"})
    with pytest.raises(
        ConfigError, match=r"'gdro' compares the members of a group, and the records of .* have one each"
    ):
        build_trainer(config)
