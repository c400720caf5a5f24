"""Learned rewards: what is saved is what is loaded, and what is scored follows from picture and words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import LearnedReward, Sample, load_reward
from diffalign.rewards.learned import build_scorer, save_learned
from diffalign.rewards.scorers import Scorer, SmallScorer, split_words, vocabulary
from tests.rewards.tiny_clip import tiny_clip, tiny_folder, tiny_tokenizer
from tests.rewards.tiny_learned import learned_folder, learned_settings

PROMPTS = ["a red circle", "two blue squares above a cross", "a red circle"]
BODIES = [("small", {}), ("clip", {}), ("clip", {"train": "all"}), ("clip", {"hidden": None})]


def pictures(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def load(folder: Path, **options: object) -> LearnedReward:
    return load_reward("learned", path=str(folder), device="cpu", **options)  # type: ignore[return-value]


@pytest.mark.parametrize(("name", "options"), BODIES)
def test_what_is_loaded_is_what_was_saved(name, options, tmp_path):
    torch.manual_seed(3)
    settings = learned_settings(name, **options)
    scorer = build_scorer(settings, device="cpu")
    with torch.no_grad():
        for each in scorer.parameters():
            each.add_(0.01 * torch.randn_like(each))
    made = LearnedReward(scorer, settings)
    save_learned(tmp_path / "run" / "reward", scorer, settings)
    loaded, of_run = load(tmp_path / "run" / "reward"), load(tmp_path / "run")
    expected = made(pictures(), PROMPTS)
    torch.testing.assert_close(loaded(pictures(), PROMPTS), expected, rtol=0, atol=0)
    assert loaded.spec == of_run.spec == made.spec
    assert loaded.settings == settings
    assert not list((tmp_path / "run").rglob("*.pt")) and not list((tmp_path / "run").rglob("*.bin"))


@pytest.mark.parametrize(("name", "options"), BODIES)
def test_value_is_the_weighted_sum_of_the_heads(name, options):
    output = load(learned_folder(name, **options)).score([Sample(each, "a red circle") for each in pictures()])
    assert list(output.components) == ["VQ", "TA"]
    torch.testing.assert_close(output.values, output.components["VQ"] + 0.5 * output.components["TA"])
    assert len(output.values.unique()) == 3


@pytest.mark.parametrize(("name", "options"), BODIES)
def test_tensors_score_alike_and_carry_gradients(name, options):
    """On pictures of the network's own size, that are whole numbers of 255, both ways are one."""
    reward = load(learned_folder(name, **options))
    whole = ((pictures() * 255).round() / 255).requires_grad_()
    values = reward.score_tensor(whole, PROMPTS)
    torch.testing.assert_close(values, reward(whole.detach(), PROMPTS), rtol=1e-4, atol=1e-5)
    values[0].backward()
    assert whole.grad is not None
    assert whole.grad[0].abs().sum() > 0
    assert whole.grad[1:].abs().sum() == 0


@pytest.mark.parametrize(("name", "options"), BODIES)
def test_order_and_size_of_the_batch_do_not_matter(name, options):
    reward = load(learned_folder(name, **options), batch=2)
    together = reward(pictures(), PROMPTS)
    alone = torch.cat([reward(pictures()[each : each + 1], [PROMPTS[each]]) for each in (2, 0, 1)])
    torch.testing.assert_close(alone, together[[2, 0, 1]], rtol=1e-5, atol=1e-6)


def test_words_matter_and_so_does_their_order():
    reward = load(learned_folder())
    same = pictures(1).repeat(4, 1, 1, 1)
    values = reward(same, ["a red circle above a blue square", "a blue square above a red circle", "日本 🦊", " "])
    assert values[:3].isfinite().all() and values[3].isnan()
    assert len(values[:3].unique()) == 3


def test_unknown_words_are_one_and_long_texts_are_cut():
    scorer = SmallScorer(["a", "cat"], dimensions=1, side=32, width=8, depth=1, most_words=3)
    assert scorer.texts(["a cat", "A  Cat!", "dog a cat a cat", ""]).tolist() == [
        [2, 3, 0],
        [2, 3, 1],
        [1, 2, 3],
        [1, 0, 0],
    ]


def test_padding_is_not_seen():
    torch.manual_seed(0)
    short, long = (
        SmallScorer(["a", "cat"], dimensions=1, side=32, width=8, depth=2, most_words=most) for most in (2, 9)
    )
    state = short.state_dict()
    state["word_places"] = torch.cat([state["word_places"], torch.randn(1, 7, 8)], dim=1)
    long.load_state_dict(state)
    shown = pictures(2)
    torch.testing.assert_close(long(shown, long.texts(["a cat"] * 2)), short(shown, short.texts(["a cat"] * 2)))


def test_other_sizes_are_scaled():
    reward = load(learned_folder())
    grey = [np.full((height, width, 3), 128, np.uint8) for height, width in ((32, 32), (64, 64), (20, 50))]
    values = reward(grey, ["a red circle"] * 3)
    torch.testing.assert_close(values, values[:1].expand(3), rtol=1e-5, atol=1e-6)  # a grey picture has no size
    assert reward.score_tensor(pictures(1, side=48), ["a red circle"]).isfinite().all()


def test_vocabulary_is_of_the_commonest_words():
    assert split_words("Two red-ish cats, 3 don't!") == [
        "two",
        "red",
        "-",
        "ish",
        "cats",
        ",",
        "3",
        "don",
        "'",
        "t",
        "!",
    ]
    assert vocabulary(["b a", "a c", "a c"], 2) == (["a", "b"], 2)  # each text once: b and c are equal
    assert vocabulary(["b a b", "c"], 9) == (["a", "b", "c"], 3)


def test_frozen_clip_is_none_of_the_weights_and_tuned_clip_is():
    heads = build_scorer(learned_settings("clip"), device="cpu")
    tuned = build_scorer(learned_settings("clip", train="all"), device="cpu")
    assert all(name.startswith("heads.") for name in heads.state_dict())
    assert any(name.startswith("clip.vision_model.") for name in tuned.state_dict())
    tuned(tuned.pictures([np.zeros((32, 32, 3), np.uint8)]), tuned.texts(["a cat"])).sum().backward()
    reached = [name for name, each in tuned.named_parameters() if each.grad is not None and each.grad.abs().sum() > 0]
    assert any("vision_model" in name for name in reached) and any("text_model" in name for name in reached)


def test_heads_know_their_clip(tmp_path):
    """Another CLIP in its place would score without a word, and wrongly."""
    folder = learned_folder("clip")
    other = tmp_path / "other"
    tiny_clip(seed=5).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(ConfigError, match=r"learned\.model: the CLIP at .*other is not the one"):
        load(folder, model=str(other))
    assert load(folder, model=tiny_folder()).spec == load(folder).spec


def test_no_reward_there(tmp_path):
    with pytest.raises(ConfigError, match=r"learned\.path: .* has no config\.json; no such reward"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("task: reward")
    with pytest.raises(ConfigError, match="the run has not finished"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"learned\.path: required, but missing"):
        load_reward("learned")


@pytest.mark.parametrize("damage", ["settings", "format", "weights", "other weights", "unknown option"])
def test_damaged_folders(damage):
    folder = learned_folder()
    told = json.loads((folder / "config.json").read_text())
    if damage == "settings":
        (folder / "config.json").write_text("{")
    elif damage == "format":
        (folder / "config.json").write_text(json.dumps(told | {"format": 7}))
    elif damage == "weights":
        (folder / "scorer.safetensors").write_bytes(b"no")
    elif damage == "other weights":
        save_file(dict(list(load_file(folder / "scorer.safetensors").items())[1:]), folder / "scorer.safetensors")
    else:
        (folder / "config.json").write_text(json.dumps(told | {"options": told["options"] | {"hight": 3}}))
    with pytest.raises(DataError, match="not a readable learned reward"):
        load(folder)


def test_every_scorer_says_what_it_keeps():
    kept = {}
    for name, options in BODIES[:3]:
        scorer: Scorer = build_scorer(learned_settings(name, **options), device="cpu")
        kept[name, options.get("train")] = (
            scorer.pixels_kept,
            scorer.pictures([np.zeros((40, 40, 3), np.uint8)]).dtype,
        )
    assert kept == {
        ("small", None): (True, torch.uint8),
        ("clip", None): (False, torch.float32),
        ("clip", "all"): (True, torch.uint8),
    }
