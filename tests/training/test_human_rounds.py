"""A run that stops in every round until people have judged its pictures."""

from __future__ import annotations

import json

import pytest
import torch

from diffalign.annotation import read_comparisons
from diffalign.exceptions import ConfigError, DataError, RunPaused
from diffalign.training import resume, train
from diffalign.training.build_trainer import build_trainer
from diffalign.training.drawer import Drawer
from diffalign.training.human import _shares
from tests.training.online import online
from tests.training.tiny import assert_same_run, rows

D3PO = {"name": "d3po"}
HUMAN = {"preference": "human", "rewards": []}


def vote(folder, choices):
    """As the page writes it."""
    lines = [
        {"comparison": each.id, "prompt": each.prompt, "a": each.a, "b": each.b, "vote": choice, "rater": "anna"}
        | {"order": "ab", "seconds": 1.0, "time": "2026-01-01T12:00:00Z"}
        for each, choice in zip(read_comparisons(folder), choices, strict=False)
    ]
    with (folder / "votes.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def paused(call):
    with pytest.raises(RunPaused) as found:
        call()
    return str(found.value)


def test_a_run_goes_from_round_to_round_as_people_vote(tmp_path, caplog):
    config = online(tmp_path, D3PO, online=HUMAN, training={"steps": 2, "groups": 2})
    folders = []
    message = paused(lambda: train(config, progress=False, announce=folders.append))
    run = folders[0]
    first = run / "rounds" / "round-0000"
    assert "2 comparisons left" in message and f"diffalign annotate {first}" in message and str(run) in message
    listed = [json.loads(line) for line in (first / "metadata.jsonl").read_text().splitlines()]
    assert [len(row["items"]) for row in listed] == [2, 2]
    assert all((first / item).is_file() for row in listed for item in row["items"])

    vote(first, ["a"])
    assert "1 comparison left" in paused(lambda: resume(run, progress=False))
    vote(first, ["a", "tie"])
    assert "round 1 waits" in paused(lambda: resume(run, progress=False))
    step = rows(run)[0]
    assert step["silent_prompts"] == 1.0  # the tie says nothing
    vote(run / "rounds" / "round-0001", ["tie", "tie"])
    done = resume(run, progress=False)
    assert done.steps == 2 and (run / "adapter").is_dir()
    assert "round 1: none of its 2 prompts tells its pictures apart: nothing to learn" in caplog.text
    card = (run / "adapter" / "README.md").read_text()
    assert "| judged by | people |" in card and "made the preferences" not in card


def test_votes_teach_what_a_reward_would(tmp_path):
    """The same pictures with the same order, judged by people or by a reward, make the same step to the bit."""
    judged = train(online(tmp_path, D3PO, training={"steps": 1, "groups": 2}), progress=False)
    folders = []
    config = online(tmp_path, D3PO, online=HUMAN, training={"steps": 1, "groups": 2})
    paused(lambda: train(config, progress=False, announce=folders.append))
    trainer = build_trainer(online(tmp_path, D3PO, training={"steps": 1, "groups": 2}))
    trainer._begin_step()
    reward = trainer._rounds[0].lesson.reward
    folder = folders[0] / "rounds" / "round-0000"
    listed = (folder / "metadata.jsonl").read_text().splitlines()
    by_id = {json.loads(line)["id"]: place for place, line in enumerate(listed)}
    choices = []
    for each in read_comparisons(folder):
        left, right = reward[by_id[each.record["id"]]].tolist()
        choices.append("a" if left > right else "b" if right > left else "tie")
    vote(folder, choices)
    human = resume(folders[0], progress=False)
    first, second = (rows(run.folder)[0] for run in (judged, human))
    assert [first[key] == second[key] for key in ("loss", "margin", "gradient_norm")] == [True] * 3


def test_what_people_judged_is_trained_on_whatever_would_be_drawn_now(tmp_path, monkeypatch):
    """The waiting round comes back from the checkpoint, so that another machine's rounding changes no picture."""
    config = online(tmp_path, D3PO, online=HUMAN, training={"steps": 1, "groups": 2})
    folders = []
    paused(lambda: train(config, progress=False, announce=folders.append))
    shown = folders[0] / "rounds" / "round-0000"
    vote(shown, ["a", "b"])

    def draw(*_):
        raise AssertionError("drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(Drawer, "draw", draw)
        assert resume(folders[0], progress=False).steps == 1
    again = build_trainer(config)
    again.folder = folders[0]
    metrics = again.train_step().metrics  # drawn anew on the same machine: the same step
    assert rows(folders[0])[0]["gradient_norm"] == metrics["gradient_norm"]


def test_a_folder_of_another_run_is_told_from_the_rounds_own():
    with pytest.raises(DataError, match="record x is not one of this round's"):
        _shares([({"id": "x"}, "0000-0.png", "0000-1.png", 1.0)], ["one"], 2)


def test_shares_are_of_the_comparisons_that_were_decided():
    record = {"id": "one"}
    judged = [
        (record, "0000-0.png", "0000-1.png", 1.0),
        (record, "0000-0.png", "0000-2.png", 0.5),
        (record, "0000-1.png", "0000-2.png", None),
    ]
    assert _shares(judged, ["one", "two"], 3)[0].tolist() == [0.75, 0.0, 0.5]
    assert _shares(judged, ["one", "two"], 3)[1].isnan().all()
    assert torch.isnan(_shares(judged[2:], ["one"], 3)).all()


@pytest.mark.slow
def test_views_are_renewed_once_however_often_a_round_is_waited_for(tmp_path):
    """An average that kept a share of itself at each try would drift with every look."""
    slow = HUMAN | {"policy_decay": {"largest": 0.5}}
    runs = []
    for tries in (1, 3):
        config = online(tmp_path, {"name": "diffusion_dpo"}, online=slow, training={"steps": 2, "groups": 2})
        folders = []
        paused(lambda config=config, folders=folders: train(config, progress=False, announce=folders.append))
        for number in (0, 1):
            for _ in range(tries - 1):
                paused(lambda folders=folders: resume(folders[0], progress=False))
            vote(folders[0] / "rounds" / f"round-{number:04d}", ["a", "b"])
            if number == 0:
                paused(lambda folders=folders: resume(folders[0], progress=False))
        runs.append(resume(folders[0], progress=False).folder)
    assert_same_run(*runs, 2)


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"online": {"preference": "human"}}, "online.preference"),
        ({"online": HUMAN, "training": {"processes": 2}}, "online.preference"),
    ],
)
def test_what_does_not_fit_is_said_with_its_path(tmp_path, sections, path):
    with pytest.raises(ConfigError, match=path):
        online(tmp_path, D3PO, **sections)


def test_without_a_run_folder_nobody_can_be_asked(tmp_path):
    with pytest.raises(ConfigError, match="run folder"):
        build_trainer(online(tmp_path, D3PO, online=HUMAN)).train_step()
