"""Runs of `task: reward`: they learn, go on to the bit, and leave a folder that `load_reward` reads."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import diffalign
from diffalign.config.yaml_values import read_yaml, write_yaml
from diffalign.data.comparisons import ComparedRecord
from diffalign.exceptions import CheckpointError, ConfigError, DivergenceError, RunInterrupted
from diffalign.rewards import load_reward
from diffalign.training import RewardRun, resume, train
from diffalign.training.checkpoint import load_checkpoint
from diffalign.training.comparison_source import split_by_prompt
from diffalign.training.reward_trainer import RewardTrainer, swap_words
from tests.data.pictures import groups_folder
from tests.rewards.tiny_clip import tiny_folder
from tests.training.reward_runs import COLOURS, colour_pairs, noisy, reward_config
from tests.training.tiny import rows


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "reward" / "scorer.safetensors")


def assert_same(left: Path, right: Path) -> None:
    """Weights, optimizer and metrics, but for the clock."""
    for one, other in ((weights(left), weights(right)),):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    step = max(int(path.name[5:]) for path in (left / "checkpoints").glob("step-*"))
    states = [load_checkpoint(run / "checkpoints" / f"step-{step}").trainer["optimizer"] for run in (left, right)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    told = [[{k: v for k, v in row.items() if k != "seconds_per_step"} for row in rows(run)] for run in (left, right)]
    assert told[0] == told[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("rewards")
    colour_pairs(home / "pairs")
    return home


@pytest.fixture(scope="module")
def finished(home: Path) -> RewardRun:
    return train(reward_config(home), progress=False)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    original = RewardTrainer.train_step

    def wrapped(self: RewardTrainer) -> dict[str, float]:
        found = original(self)
        if self.step == step:
            act(self)
        return found

    monkeypatch.setattr(RewardTrainer, "train_step", wrapped)


@pytest.mark.parametrize("loss", [{"name": "bradley_terry"}, {"name": "bradley_terry_ties", "theta": 2.0}])
def test_it_learns_what_the_prompts_ask_for(loss, tmp_path):
    """From prompts that it has seen to those that it has not: the colour is in the words."""
    colour_pairs(tmp_path / "pairs", 60)
    training = {"steps": 50, "records": 12, "shift": 0, "contrast": 1.0}
    config = reward_config(tmp_path, loss=loss, training=training, optimizer={"learning_rate": 3e-3})
    run = train(config, progress=False)
    assert run.held_out["overall"]["comparisons"] == 17
    assert run.held_out["overall"]["accuracy"] == 1.0
    reward = diffalign.load_reward("learned", path=str(run.folder))
    shown = [noisy(colour, np.random.default_rng(7)) for colour in COLOURS]
    for place, name in enumerate(COLOURS):
        assert reward(shown, [f"{name} number 99"] * 3).argmax() == place


def test_what_is_left_in_the_folder(finished):
    run = finished.folder
    assert read_yaml((run / "config.yaml").read_text())["task"] == "reward"
    assert json.loads((run / "result.json").read_text()) == {"step": 6, "view": "reward"}
    assert json.loads((run / "held_out.json").read_text()) == finished.held_out
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "accuracy", "contrast", "contrast_accuracy", "gradient_norm"} <= rows(run)[0].keys()
    (measured,) = rows(run, "held_out")
    assert measured["dimensions"] == finished.held_out
    loaded, grey = load_reward("learned", path=str(run)), torch.full((1, 3, 32, 32), 0.5)
    assert torch.equal(loaded(grey, ["red"]), finished.reward(grey, ["red"]))
    assert loaded.spec == finished.reward.spec


def test_same_seed_same_run_and_another_seed_another(finished, home):
    assert_same(finished.folder, train(reward_config(home), progress=False).folder)
    other = train(reward_config(home, seed=1), progress=False)
    assert not torch.equal(weights(other.folder)["word_places"], weights(finished.folder)["word_places"])


def test_torchs_own_generator_is_left_alone(home):
    before = torch.get_rng_state()
    train(reward_config(home, training={"steps": 1}), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_to_the_bit(number, finished, home, monkeypatch):
    folders: list[Path] = []
    stop_after(monkeypatch, 3, lambda trainer: os.kill(os.getpid(), number))
    with pytest.raises(RunInterrupted, match="saved step 3; go on with diffalign train --resume"):
        train(reward_config(home), progress=False, announce=folders.append)
    monkeypatch.undo()
    assert not (folders[0] / "reward").exists()
    with pytest.raises(ConfigError, match="the run has not finished"):
        load_reward("learned", path=str(folders[0]))
    gone_on = resume(folders[0], progress=False)
    assert gone_on.trained and gone_on.held_out == finished.held_out
    assert_same(folders[0], finished.folder)


def test_killed_between_two_checkpoints(finished, home, monkeypatch):
    class PowerCut(BaseException):
        pass

    def cut(trainer: RewardTrainer) -> None:
        raise PowerCut

    folders: list[Path] = []
    stop_after(monkeypatch, 5, cut)
    with pytest.raises(PowerCut):
        train(reward_config(home), progress=False, announce=folders.append)
    monkeypatch.undo()
    resume(folders[0], progress=False)
    assert_same(folders[0], finished.folder)


def test_finished_run_is_only_loaded(finished):
    before = (finished.folder / "reward" / "config.json").stat().st_mtime_ns
    again = resume(finished.folder, progress=False)
    assert isinstance(again, RewardRun)
    assert not again.trained and again.steps == 6 and again.held_out == finished.held_out
    assert (finished.folder / "reward" / "config.json").stat().st_mtime_ns == before


def test_changed_settings_are_refused(home):
    run = train(reward_config(home, training={"steps": 2}), progress=False)
    file = run.folder / "config.yaml"
    told = read_yaml(file.read_text())
    file.write_text(write_yaml(told | {"seed": 7}))
    with pytest.raises(ConfigError, match="seed: was 0, is 7"):
        resume(run.folder, progress=False)
    told["training"]["steps"] = 4  # more of the same may follow, as the learning rate is constant
    file.write_text(write_yaml(told))
    assert resume(run.folder, progress=False).steps == 4
    with pytest.raises(ConfigError, match="a run of task: reward goes on with its own config"):
        resume(run.folder, progress=False, overrides=["training.groups=1"])


def test_changed_records_are_refused(tmp_path):
    run = train(reward_config(tmp_path, training={"steps": 2}), progress=False)
    (tmp_path / "pairs" / "0a.png").write_bytes((tmp_path / "pairs" / "1b.png").read_bytes())
    with pytest.raises(CheckpointError, match="the records, or the CLIP, are not those that step 2 was trained with"):
        resume(run.folder, progress=False)


def test_numbers_gone_bad_stop_the_run(home):
    folders: list[Path] = []
    config = reward_config(home, optimizer={"learning_rate": 1e30, "max_grad_norm": "inf"})
    with pytest.raises(DivergenceError, match=r"step \d: .* is (nan|inf|-inf); records of this step: r"):
        train(config, progress=False, announce=folders.append)
    assert rows(folders[0], "alarm")[0]["alarm"] == "not_finite"


@pytest.mark.parametrize("part", ["heads", "all"])
def test_clip_bodies_learn_too(part, home):
    body = {"name": "clip", "model": tiny_folder(), "train": part, "hidden": None}
    config = reward_config(
        home,
        reward={"body": body},
        training={"steps": 20, "records": 18, "shift": 0, "contrast": 0.0},
        optimizer={"learning_rate": 1e-2 if part == "heads" else 1e-3},
    )
    run = train(config, progress=False)
    losses = [row["loss"] for row in rows(run.folder)]
    assert losses[-1] < 0.8 * losses[0]
    assert (run.folder / "reward" / "clip").is_dir() == (part == "all")
    grey = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(load_reward("learned", path=str(run.folder))(grey, ["red"]), run.reward(grey, ["red"]))


def test_one_head_a_dimension(tmp_path):
    """VQ says the opposite of the rest, and TA is said of every other record alone."""
    home = colour_pairs(tmp_path / "pairs", 16, preferences={"VQ": "b"})
    lines = [json.loads(line) for line in (home / "metadata.jsonl").read_text().splitlines()]
    for row in lines[::2]:
        row["preferences"] = {"VQ": "b", "TA": "a"}
    (home / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    reward = {"dimensions": ["VQ", "TA"], "weights": {"VQ": 0.5}}
    training = {"steps": 40, "records": 8, "contrast_dimension": "TA"}
    run = train(reward_config(tmp_path, reward=reward, training=training), progress=False)
    assert run.held_out["VQ"]["comparisons"] == 3 and run.held_out["TA"]["comparisons"] in (1, 2)
    assert run.held_out["VQ"]["accuracy"] == run.held_out["TA"]["accuracy"] == 1.0
    assert run.reward.components == ("VQ", "TA") and run.reward.settings.weights == (0.5, 1.0)


@pytest.mark.parametrize(("ties", "least", "most"), [("half", 0.6931, 2.0), ("leave_out", 0.0, 0.0)])
def test_ties_are_half_a_win_or_teach_nothing(ties, least, most, tmp_path):
    colour_pairs(tmp_path / "pairs", 6, votes={"a": 1, "b": 1, "tie": 2})
    loss = {"name": "bradley_terry", "ties": ties}
    config = reward_config(
        tmp_path, loss=loss, data={"held_out": 0.0}, training={"steps": 1, "contrast": 0.0, "records": 6}
    )
    (row,) = rows(train(config, progress=False).folder)
    assert least <= row["loss"] <= most
    assert (row["gradient_norm"] > 0) == (ties == "half")
    assert "accuracy" not in row


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("a cat left of a dog", "a cat right of a dog"),
        ("Right, then LEFT and leftover", "left, then right and leftover"),
        ("above the left one", "below the right one"),
        ("a cat", "a cat"),
    ],
)
def test_words_are_exchanged_whole(text, swapped):
    assert swap_words(text, [("left", "right"), ("above", "below")]) == swapped


def test_swapped_words_are_told_apart(home):
    swaps = {"steps": 3, "contrast": 1.0, "contrast_others": 1, "contrast_swaps": [["red", "blue"]]}
    first, again = (train(reward_config(home, training=swaps), progress=False) for _ in range(2))
    assert_same(first.folder, again.folder)
    without = train(reward_config(home, training=swaps | {"contrast_swaps": []}), progress=False)
    assert rows(first.folder)[0]["contrast"] != rows(without.folder)[0]["contrast"]
    assert (
        rows(first.folder)[0]["accuracy"] == rows(without.folder)[0]["accuracy"]
    )  # the same records, the same weights


def test_regression_finds_the_numbers(tmp_path):
    """Shades of blue, whose reward is the shade."""
    groups_folder(tmp_path / "pairs", [[0.1 * number, 0.1 * number + 0.01, None] for number in range(10)])
    config = reward_config(
        tmp_path, data={"kind": "groups", "held_out": 0.2}, loss={"name": "regression", "huber_delta": 1.0},
        training={"steps": 60, "records": 8, "contrast": 0.0, "shift": 0},
    )  # fmt: skip
    losses = [row["loss"] for row in rows(train(config, progress=False).folder)]
    assert losses[0] > 0.05 and losses[-1] < 0.02


def test_several_processes_are_refused(home, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="task: reward trains in one process, and 2 were started"):
        train(reward_config(home), progress=False)


def test_what_is_held_out_follows_from_the_prompt_alone():
    """Another source with the same prompts, and others, is split alike; the share is kept on average."""
    made = [ComparedRecord(str(number), f"prompt {number}", (), ()) for number in range(4000)]
    train_on, held_out = split_by_prompt(made, 0.2, 3)
    assert 700 < len(held_out) < 900 and len(train_on) + len(held_out) == 4000
    again = split_by_prompt(made[1000:3000] * 2, 0.2, 3)[1]
    assert {each.prompt for each in again} == {each.prompt for each in held_out if 1000 <= int(each.id) < 3000}
    assert {each.id for each in split_by_prompt(made, 0.2, 4)[1]} != {each.id for each in held_out}


def test_too_few_prompts_to_hold_out(home):
    with pytest.raises(ConfigError, match=r"data\.held_out: 0\.01 of 24 prompts is none"):
        train(reward_config(home, data={"held_out": 0.01}), progress=False)
    run = train(reward_config(home, data={"held_out": 0.0}, training={"steps": 1}), progress=False)
    assert run.held_out == {} and not (run.folder / "held_out.json").exists()
