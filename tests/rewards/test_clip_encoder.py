"""CLIP as an encoder: texts and pictures in one space, reference files that say what they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import (
    ClipEncoder,
    TextEncoder,
    fit_reference,
    fit_text_reference,
    load_encoder,
    load_reward,
    read_reference,
    reference_facts,
    save_reference,
)
from diffalign.rewards.functional import frechet_distance, gaussian_statistics
from diffalign.rewards.selftest_samples import picture
from tests.rewards.tiny_clip import tiny_folder

TEXTS = ["a cat", "a dog on a mat", "blue hills", "the sea at night", "two apples"]
PICTURES = [Image.fromarray(picture(seed, 48, 40)) for seed in range(6)]


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    made = load_encoder(f"clip:model={tiny_folder()};batch=2;device=cpu")
    assert isinstance(made, ClipEncoder)
    return made


def test_features_are_those_of_the_towers(encoder):
    pixels = [np.asarray(each) for each in PICTURES]
    seen = encoder.encode([*PICTURES[:3], "no picture", *PICTURES[3:]])
    assert isinstance(seen[3], str) and "must be PIL" in seen[3]
    rows = torch.stack([row for row in seen if not isinstance(row, str)])
    torch.testing.assert_close(rows, encoder.towers.pictures(pixels).double(), atol=1e-6, rtol=0)
    told = encoder.encode_texts([TEXTS[0], " ", *TEXTS[1:]])
    assert told[1] == "it is empty" and rows.dtype == torch.float64
    words = torch.stack([row for row in told if not isinstance(row, str)])
    torch.testing.assert_close(words, encoder.towers.texts(TEXTS).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(5).double())


def test_a_set_of_texts_judges_pictures(encoder, tmp_path):
    file = tmp_path / "texts.safetensors"
    save_reference(file, fit_text_reference(iter(TEXTS), encoder), encoder, about={"of": "text"})
    reward = load_reward("frechet", reference=str(file), encoder=f"clip:model={tiny_folder()}")
    told, seen = (
        gaussian_statistics(torch.stack(rows)) for rows in (encoder.encode_texts(TEXTS), encoder.encode(PICTURES))
    )
    by_hand = frechet_distance(told.mean, told.cov, seen.mean, seen.cov)
    assert float(reward(PICTURES)) == pytest.approx(-float(by_hand), abs=1e-6)
    assert isinstance(encoder, TextEncoder) and not isinstance(load_encoder("pixels"), TextEncoder)
    with pytest.raises(DataError, match="sample 1 of the reference set: it is empty"):
        fit_text_reference(["a", ""], encoder)
    other = load_encoder(f"clip:model={tiny_folder(seed=1)}")
    with pytest.raises(ConfigError, match="was made with encoder 'clip "):
        read_reference(file, other)


def test_a_folder_of_pictures_is_a_reference_for_any_encoder_of_pictures(encoder, tmp_path):
    for number, each in enumerate(PICTURES):
        each.save(tmp_path / f"{number}.png")
    torch.testing.assert_close(read_reference(tmp_path, encoder), fit_reference(PICTURES, encoder))
    diverse = load_reward("vendi", encoder=f"clip:model={tiny_folder()}", kernel="cosine")(PICTURES)
    assert 1 < float(diverse) < 6


def test_a_reference_file_says_what_it_is_and_notices_changes(encoder, tmp_path):
    file = tmp_path / "set.safetensors"
    about = {"licence": "CC0-1.0", "source": "my own", "of": "image"}
    save_reference(file, fit_reference(PICTURES, encoder), encoder, about=about)
    facts = reference_facts(file)
    assert (
        facts.items() >= about.items() and facts["encoder"] == f"clip {encoder.version}" and len(facts["sha256"]) == 64
    )
    read_reference(file, encoder)
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors | {"mean": tensors["mean"] + 1e-6}, file, metadata=facts)
    with pytest.raises(DataError, match="is not what was written"):
        read_reference(file, encoder)
    save_file(tensors, file, metadata=facts | {"licence": "MIT"})
    with pytest.raises(DataError, match="is not what was written"):
        reference_facts(file)


def test_files_of_before_are_read(encoder, tmp_path):
    """Without a hash, as the first version wrote them."""
    file, fitted = tmp_path / "old.safetensors", fit_reference(PICTURES, load_encoder("pixels"))
    tensors = {"mean": fitted.mean, "cov": fitted.cov, "size": torch.tensor(fitted.size)}
    save_file(tensors, file, metadata={"encoder": "pixels 1"})
    torch.testing.assert_close(read_reference(file, load_encoder("pixels")), fitted)
    assert reference_facts(file) == {"encoder": "pixels 1"}


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"encoder clip\.model: cannot load '/nowhere'"):
        load_reward("vendi", encoder="clip:model=/nowhere")
    assert not Path("/nowhere").exists()
