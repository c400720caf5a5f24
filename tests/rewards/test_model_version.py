"""The version of a reward that is a model: it changes with all that changes the score, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer, ClapProcessor, CLIPConfig, CLIPModel, CLIPTokenizer

from diffalign.rewards import load_reward
from diffalign.rewards.clap_towers import ClapTowers
from diffalign.rewards.clip_towers import ClipTowers
from diffalign.rewards.learned import build_scorer, save_learned
from diffalign.rewards.weights import model_version
from tests.rewards import tiny_video_reward
from tests.rewards.test_clip import PROMPTS, pictures
from tests.rewards.tiny_blip import bert_folder, image_reward_file
from tests.rewards.tiny_clap import tiny_clap, tiny_clap_folder, tiny_processor
from tests.rewards.tiny_clip import tiny_clip, tiny_folder, tiny_tokenizer
from tests.rewards.tiny_learned import learned_settings


def version(name: str, **options) -> str:
    return load_reward(name, **options).spec.version


def copied(folder: str, to: Path, file: str, **changed) -> str:
    """The folder with other settings in one of its files; of a path like text_config.hidden_act, inside."""
    shutil.copytree(folder, to)
    told = json.loads((to / file).read_text(encoding="utf-8"))
    for path, value in changed.items():
        *outer, last = path.split("__")
        inner = told
        for each in outer:
            inner = inner[each]
        inner[last] = value
    (to / file).write_text(json.dumps(told), encoding="utf-8")
    return str(to)


def reversed_words() -> CLIPTokenizer:
    """The same words with other ids."""
    words = tiny_tokenizer().get_vocab()
    letters = sorted((word for word in words if not word.startswith("<|")), reverse=True)
    return CLIPTokenizer(vocab={word: row for row, word in enumerate(letters)} | {
        word: row for word, row in words.items() if word.startswith("<|")
    }, merges=[])  # fmt: skip


def test_the_activation_is_part_of_it(tmp_path):
    other = copied(tiny_folder(), tmp_path / "gelu", "config.json", text_config__hidden_act="gelu")
    one, two = (load_reward("clip", model=folder) for folder in (tiny_folder(), other))
    assert not torch.equal(one(pictures(), PROMPTS), two(pictures(), PROMPTS))
    assert one.spec.version != two.spec.version
    third = copied(tiny_folder(), tmp_path / "both", "config.json", vision_config__hidden_act="gelu")
    assert len({version("clip", model=folder) for folder in (tiny_folder(), other, third)}) == 3


def test_the_tokenizer_is_part_of_it(tmp_path):
    reversed_words().save_pretrained(tmp_path / "words")
    one, two = (
        load_reward("pickscore", model=tiny_folder(), tokenizer=str(folder))
        for folder in (tiny_folder(), tmp_path / "words")
    )
    assert not torch.equal(one(pictures(), PROMPTS), two(pictures(), PROMPTS))
    assert one.spec.version != two.spec.version


def test_image_rewards_tokenizer_is_part_of_it(tmp_path):
    options = {"weights": image_reward_file()}
    words = BertTokenizer.from_pretrained(bert_folder()).get_vocab()
    BertTokenizer(vocab=words, do_lower_case=False).save_pretrained(tmp_path / "cased")  # the words are the same
    same, again = (version("image_reward", tokenizer=bert_folder(), **options) for _ in range(2))
    assert same == again != version("image_reward", tokenizer=str(tmp_path / "cased"), **options)


def test_how_a_picture_becomes_a_square_is_part_of_it():
    versions = {ClipTowers(tiny_clip(), tiny_tokenizer(), fit=fit).version for fit in ("crop", "pad", "crop")}
    assert len(versions) == 2


def test_how_claps_spectra_are_made_is_part_of_it():
    whole, repeated = (version("clap", model=tiny_clap_folder(padding=kind)) for kind in ("repeatpad", "repeat"))
    assert whole != repeated
    processor = tiny_processor()
    before = ClapTowers(tiny_clap(), processor).version
    processor.feature_extractor.mel_filters_slaney = 1.01 * processor.feature_extractor.mel_filters_slaney
    after = ClapTowers(tiny_clap(), processor).version
    processor.feature_extractor.hop_length = 481
    assert len({before, after, ClapTowers(tiny_clap(), processor).version}) == 3
    assert before == ClapTowers(tiny_clap(), ClapProcessor.from_pretrained(tiny_clap_folder())).version


@pytest.mark.parametrize("name", ["clip", "clap"])
def test_a_copy_elsewhere_has_the_same(name, tmp_path):
    folder = tiny_folder() if name == "clip" else tiny_clap_folder()
    names = {"_name_or_path": "somebody/else", "transformers_version": "5.99.0", "dtype": "bfloat16"}
    moved = copied(folder, tmp_path / "moved", "config.json", **names, architectures=["Other"], initializer_factor=2.0)
    reward = load_reward(name, model=folder)
    assert reward.spec.version == version(name, model=moved) == version(name, model=folder)
    reward.towers.texts(["a", "a long text"])  # a tokenizer that was used tells the same
    towers = reward.towers
    fit = {"fit": "crop"}
    if name == "clip":
        assert model_version(towers.model.state_dict(), [towers.model.config], towers.tokenizer, fit) == towers.version


def test_video_rewards_copy_has_the_same(tmp_path):
    folder = tiny_video_reward.folder()
    shutil.copytree(folder, tmp_path / "copy")
    assert version("video_reward", model=folder) == version("video_reward", model=str(tmp_path / "copy"))
    base = copied(tiny_video_reward.base_folder(), tmp_path / "base", "config.json", vision_config__hidden_act="gelu")
    assert version("video_reward", model=folder) != version("video_reward", model=folder, base=base)


def test_a_learned_reward_has_its_clips(tmp_path):
    """CLIP that was trained with the heads lies in the folder, with settings of its own."""
    settings = learned_settings("clip", train="all")
    scorer = build_scorer(settings, device="cpu")
    save_learned(tmp_path / "reward", scorer, settings)
    same = version("learned", path=str(tmp_path / "reward"))
    shutil.copytree(tmp_path / "reward", tmp_path / "copy")
    assert version("learned", path=str(tmp_path / "copy")) == same
    file = tmp_path / "copy" / "clip" / "config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["text_config"]["hidden_act"] = "gelu"
    file.write_text(json.dumps(told), encoding="utf-8")
    assert version("learned", path=str(tmp_path / "copy")) != same


def test_defaults_of_a_config_need_not_be_told():
    """What is off is as if it were not there, whichever way transformers tells it."""

    class Told(CLIPConfig):
        def to_dict(self):
            return super().to_dict() | {"new_feature": False, "another": None}

    model = CLIPModel(
        CLIPConfig(**{each: getattr(tiny_clip().config, each).to_dict() for each in ("text_config", "vision_config")})
    )
    told = Told(**model.config.to_dict())
    assert model_version({}, [told]) == model_version({}, [model.config])
