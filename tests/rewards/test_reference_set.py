"""Reference sets: from a folder, from features, from statistics; and what is said of bad ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffalign.exceptions import ConfigError, DataError, SaveError
from diffalign.rewards import fit_reference, load_encoder, load_reward, read_reference, reference_set, save_reference
from diffalign.rewards.functional import gaussian_statistics

PIXELS, LATENTS = load_encoder("pixels"), load_encoder("latents")


def pictures(count: int) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in values]


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "reference"
    (home / "more").mkdir(parents=True)
    for number, picture in enumerate(pictures(7)):
        picture.save(home / ("more" if number > 4 else "") / f"{number}.png")
    (home / "metadata.jsonl").write_text("{}\n")
    return home


def test_a_folder_and_its_pictures_agree(folder):
    found, expected = read_reference(folder, PIXELS), gaussian_statistics(torch.stack(PIXELS.encode(pictures(7))))
    torch.testing.assert_close(found, expected)
    reward = load_reward("frechet", reference=str(folder))
    assert reward(pictures(7)) == pytest.approx(0, abs=1e-9)
    assert reward(pictures(6)) < 0 and reward.spec.level == "set_to_set"


@pytest.mark.parametrize("chunk", [1, 2, 3, 6, 100])
def test_chunks_do_not_matter(monkeypatch, chunk):
    monkeypatch.setattr(reference_set, "_CHUNK", chunk)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(fit_reference(x, LATENTS), gaussian_statistics(x))


def test_statistics_come_back_from_a_file(tmp_path):
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    statistics, path = gaussian_statistics(x), tmp_path / "set.safetensors"
    save_reference(path, statistics, LATENTS)
    torch.testing.assert_close(read_reference(path, LATENTS), statistics, rtol=0, atol=0)
    assert [each.name for each in tmp_path.iterdir()] == ["set.safetensors"]
    one, other = (load_reward("frechet", reference=str(path), encoder="latents") for _ in range(2))
    assert one.spec == other.spec and one(x) == pytest.approx(0, abs=1e-9)
    save_reference(path, gaussian_statistics(x + 1), LATENTS)
    assert load_reward("frechet", reference=str(path), encoder="latents").spec.version != one.spec.version


def test_features_of_any_shape_from_a_file(tmp_path):
    x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0))
    save_file({"features": x}, tmp_path / "x.safetensors")
    torch.testing.assert_close(read_reference(tmp_path / "x.safetensors", LATENTS), gaussian_statistics(x.flatten(1)))


def test_another_encoder_is_refused(tmp_path, folder):
    path = tmp_path / "set.safetensors"
    save_reference(path, gaussian_statistics(torch.randn(9, 4)), LATENTS)
    with pytest.raises(ConfigError, match=r"was made with encoder 'latents 1', and frechet.encoder is 'pixels 1'"):
        read_reference(path, PIXELS)
    with pytest.raises(ConfigError, match="is a folder of pictures, and encoder 'latents' takes none"):
        read_reference(folder, LATENTS)


def test_bad_files(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "list.txt").write_text("a.png")
    save_file({"weights": torch.ones(2)}, tmp_path / "other.safetensors")
    for name, error, message in [
        ("empty", DataError, "has 0 pictures; at least 2 are needed"),
        ("broken.safetensors", DataError, "not a readable reference set"),
        ("list.txt", ConfigError, "must be a folder of pictures or a .safetensors file"),
        ("other.safetensors", DataError, "must hold features, or mean, cov and size; it has weights"),
        ("nothing", ConfigError, "no such file or folder"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            read_reference(tmp_path / name, PIXELS)
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3\.png: not a readable picture"):
        read_reference(folder, PIXELS)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"features": torch.ones(3)}, r"features must be \[samples, ...\], got \[3\]"),
        ({"features": torch.ones(3, 0)}, r"features must be \[samples, ...\], got \[3, 0\]"),
        ({"features": torch.ones(1, 3)}, "a covariance needs at least 2 samples, got 1"),
        ({"features": torch.tensor([[0.0], [torch.nan]])}, "features of sample 1 are not finite"),
        ({"size": torch.tensor([9, 9])}, r"size must be one whole number, 2 or more, got \[9, 9\]"),
        ({"size": torch.tensor(torch.nan)}, "size must be one whole number, 2 or more, got nan"),
        ({"size": torch.tensor(1)}, "size must be one whole number, 2 or more, got 1"),
        ({"mean": torch.tensor([0.0, torch.nan])}, "mean is not finite"),
        ({"cov": torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]])}, "cov is not finite"),
        ({"cov": torch.eye(3)}, r"must have mean \[d\] and cov \[d, d\], got \[2\] and \[3, 3\]"),
        ({"mean": torch.tensor(0.0)}, r"must have mean \[d\] and cov \[d, d\], got \[\] and \[2, 2\]"),
    ],
)
def test_damaged_files_are_named(tmp_path, tensors, says):
    path = tmp_path / "set.safetensors"
    save_file({"mean": torch.zeros(2), "cov": torch.eye(2), "size": torch.tensor(9)} | tensors, path)
    with pytest.raises(DataError, match=rf"set\.safetensors: {says}"):
        read_reference(path, LATENTS)


def test_too_few_or_bad_samples():
    with pytest.raises(DataError, match="a reference set needs at least 2 samples, got 1"):
        fit_reference([torch.ones(3)], LATENTS)
    with pytest.raises(DataError, match=r"sample 1 of the reference set: 1 of 3 values of the latents are not finite"):
        fit_reference([torch.ones(3), torch.tensor([0.0, torch.nan, 1.0])], LATENTS)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(SaveError, match="cannot be written"):
        save_reference(tmp_path / "no" / "set.safetensors", gaussian_statistics(torch.randn(9, 4)), LATENTS)
