"""Records of every kind, and which objective takes them."""

from __future__ import annotations

from typing import Any

import pytest

from diffalign.exceptions import ConfigError
from diffalign.training import train
from tests.data.pictures import picture_file, write_rows
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
        (
            None,
            {"training": {"steps": 2, "groups": 1, "pair_weight": MARGIN}},
            "training.pair_weight: weighs pairs by the",
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
    for span in ([0.0, 2.0], [-2.0, -1.0]):
        data = {"kind": "groups", "reward_range": span}
        trainer = trainer_of(home, name, "sd", data=data, training={"steps": 2, "groups": 4})
        seen.append(trainer.train_step().metrics)
    figure = {"gdro": "reward_margin", "rank_dpo": "weight_sum"}[name]
    assert seen[0][figure] > 0.1 and seen[1][figure] == 0
    assert seen[0]["reward_mean"] == seen[1]["reward_mean"] > 0.5  # what the log shows is the reward as it came
