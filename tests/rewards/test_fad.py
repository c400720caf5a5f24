"""Fréchet audio distance: the reference implementations' numbers, songs, infinity, exchanges, and degenerate sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.linalg
import torch

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import (
    Audio,
    FADReward,
    FADSongReward,
    Sample,
    fit_reference,
    load_encoder,
    load_reward,
    save_reference,
)
from diffalign.rewards.functional import frechet_infinity, gaussian_statistics
from diffalign.rewards.set_functional import Gaussian
from tests.rewards.sounds import buzz, noise


class GivenFrames:
    """An encoder of sound whose frames are the samples themselves, [frames, features]."""

    name, version = "given", "1"
    media: Literal["image", "video", "audio", "features"] = "audio"

    def split(self, media: Any) -> list[Any]:
        return list(media)

    def encode(self, media: Sequence[Any]) -> list[Any]:
        return [one.mean(0) for one in media]

    def encode_frames(self, media: Sequence[Any]) -> list[Any]:
        return [one if isinstance(one, torch.Tensor) else "no frames" for one in media]


GIVEN = GivenFrames()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    mixing = torch.randn(shape[-1], shape[-1], generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ mixing


def by_sqrtm(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """The formula as it is printed, with scipy's root of a matrix."""
    own_mean, own_cov = x.mean(0), np.cov(x, rowvar=False)
    root = np.real(np.trace(scipy.linalg.sqrtm(own_cov @ cov)))
    return float(((own_mean - mean) ** 2).sum() + np.trace(own_cov) + np.trace(cov) - 2 * root)


def by_eigenvalues(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """fadtk's route: the roots of the eigenvalues of the product."""
    own_mean, own_cov = x.mean(0), np.cov(x, rowvar=False)
    values, vectors = scipy.linalg.eig(own_cov @ cov)
    root = np.trace((vectors * np.emath.sqrt(values)) @ scipy.linalg.inv(vectors)).real
    return float(((own_mean - mean) ** 2).sum() + np.trace(own_cov) + np.trace(cov) - 2 * root)


def reference(width: int) -> Gaussian:
    return gaussian_statistics(drawn(400, width, seed=9) + 0.3)


@pytest.mark.parametrize("formula", [by_sqrtm, by_eigenvalues])
@pytest.mark.parametrize("width", [4, 24])
def test_the_distance_of_all_frames_is_that_of_the_reference_implementations(formula: Any, width: int) -> None:
    sounds = [drawn(count, width, seed=count) for count in (30, 12, 41)]
    mean, cov = (each.numpy() for each in reference(width)[:2])
    expected = formula(torch.cat(sounds).numpy(), mean, cov)
    found = FADReward(reference(width), encoder=GIVEN).score_set([Sample(one) for one in sounds])
    assert found.value == pytest.approx(-expected, abs=1e-6) and found.counted == 3
    ((song, _),) = FADSongReward(reference(width), encoder=GIVEN).judge_batch(sounds[:1], [])
    assert song == pytest.approx(-formula(sounds[0].numpy(), mean, cov), abs=1e-6)


def test_few_frames_of_many_features() -> None:
    sounds = [drawn(count, 24, seed=count) for count in (3, 5)]
    expected = by_sqrtm(torch.cat(sounds).numpy(), *(each.numpy() for each in reference(24)[:2]))
    value = FADReward(reference(24), encoder=GIVEN)(sounds).item()
    assert value == pytest.approx(-expected, rel=1e-5)  # a matrix of low rank: scipy's root is rough itself
    songs = FADSongReward(reference(24), encoder=GIVEN)
    assert max(song for song, _ in songs.judge_batch(sounds, [])) < value < 0  # fewer frames stand farther off
    assert songs.spec.level == "instance_to_set"


def test_infinity_is_the_intercept_over_the_sizes() -> None:
    sounds = [drawn(60, 4, seed=seed) for seed in range(10)]
    reward = FADReward(reference(4), encoder=GIVEN, infinity=True, smallest=100, sizes=9, seed=3)
    rows = torch.cat(sounds)
    rows = rows[np.lexsort(rows.T.numpy()[::-1])]  # the draws do not depend on the samples' order
    line = frechet_infinity(rows, *reference(4)[:2], generator=torch.Generator().manual_seed(3), smallest=100, sizes=9)
    value = reward(sounds).item()
    assert value == pytest.approx(-line.value, rel=1e-6) and value <= 0
    assert reward(sounds[::-1]).item() == pytest.approx(value, rel=1e-9) and reward(sounds).item() == value
    plain = FADReward(reference(4), encoder=GIVEN)
    assert reward.spec.version == f"{plain.spec.version}-infinity-100-9-3"
    same = FADReward(gaussian_statistics(rows), encoder=GIVEN, infinity=True, smallest=100, sizes=9)
    assert -0.2 < same(sounds).item() <= 0  # a line may pass below 0, the reward does not


def test_infinity_needs_more_frames_than_the_smallest_set(caplog: pytest.LogCaptureFixture) -> None:
    reward = FADReward(reference(4), encoder=GIVEN, infinity=True)
    assert reward([drawn(500, 4)]).isnan() and "needs 501 frames or more, got 500" in caplog.text


def test_identical_and_constant_sets() -> None:
    x = drawn(50, 6)
    same = FADReward(gaussian_statistics(x), encoder=GIVEN)
    assert -1e-9 < same([x[:20], x[20:]]).item() <= 0
    assert same([x + 1]).item() == pytest.approx(-6, abs=1e-9)
    point = FADReward(gaussian_statistics(torch.ones(5, 6, dtype=torch.float64)), encoder=GIVEN)
    assert point([torch.ones(3, 6, dtype=torch.float64)]).item() == 0
    assert point([x]).item() == pytest.approx(-((x.mean(0) - 1).square().sum() + x.var(0).sum()).item())
    assert same([torch.ones(9, 6, dtype=torch.float64)]).item() < 0


def test_exchanges_agree_with_a_fresh_look() -> None:
    reward = FADReward(reference(4), encoder=GIVEN)
    sounds = [drawn(count, 4, seed=count) for count in (7, 5, 5, 6)]
    rows, _ = reward.features([Sample(one) for one in sounds])
    assert rows.shape == (4, 28) and rows[1, 20:].isnan().all()
    state = reward.start(rows)
    for place, count in ((1, 5), (0, 7), (3, 2), (0, 9), (2, 5)):  # of as many frames, and of others
        new = drawn(count, 4, seed=100 + count + place)
        before, state = state, reward.swap(state, place, new.flatten())
        sounds[place] = new
        fresh = reward.score_set([Sample(one) for one in sounds]).value
        assert reward.value(state) == pytest.approx(fresh, abs=1e-9) and reward.value(before) != reward.value(state)
    assert reward.leave_one_out(rows).isfinite().all()


def test_bad_samples_are_left_out_with_a_reason() -> None:
    reward = FADReward(reference(4), encoder=GIVEN)
    good = [drawn(6, 4, seed=seed) for seed in range(2)]
    output = reward.score_set([Sample(good[0]), Sample("x"), Sample(drawn(6, 5)), Sample(good[1])])
    assert output.reasons == (None, "no frames", "it has 5 features, the reference 4", None) and output.counted == 2
    assert output.value == reward.score_set([Sample(one) for one in good]).value
    assert reward.score_set([Sample("x")]).value != reward.score_set([Sample("x")]).value  # NaN
    assert reward.score_set([]).counted == 0
    with pytest.raises(DataError, match="fad: needs 2 frames or more, got 1"):
        reward.start(drawn(1, 4))
    songs = FADSongReward(reference(4), encoder=GIVEN).judge_batch([good[0], good[1][:1], drawn(6, 5), "x"], [])
    assert songs[0][1] == {"frames": 6.0} and songs[2:] == ["it has 5 features, the reference 4", "no frames"]
    assert songs[1] == "it has 1 frame of features, and a covariance needs 2: it is too short"


def test_by_name_with_a_reference_in_a_file(tmp_path: Path) -> None:
    encoder = load_encoder("speaker")
    voices = [Audio(buzz(16000, 3.0 + turn)[turn * 500 :].copy(), 16000) for turn in range(3)]
    others = [Audio(0.05 * noise(48000, seed).clip(-9, 9), 16000) for seed in range(2)]
    statistics = fit_reference(voices, encoder)
    assert statistics.size == sum(map(len, encoder.encode_frames(voices)))
    save_reference(tmp_path / "voices.safetensors", statistics, encoder)
    options = {"reference": str(tmp_path / "voices.safetensors"), "encoder": "speaker"}
    reward, song = load_reward("fad", **options), load_reward("fad_song", **options)
    assert reward(voices).item() == pytest.approx(0, abs=1e-9) and reward(others).item() < -0.1
    assert (song(voices) < 0).all() and song(others).max() < song(voices).min()
    assert song.spec.name == "fad_song" and song.spec.media == reward.spec.media == "audio"
    with pytest.raises(ConfigError, match=r"made with encoder 'speaker .*', and fad.encoder is 'aisfx"):
        load_reward("fad", reference=options["reference"], encoder="aisfx")
    assert load_reward("fad", reference=options["reference"]).spec == reward.spec  # the file knows its encoder
    with pytest.raises(ConfigError, match=r"fad_song\.reference: no such file or folder"):
        load_reward("fad_song", reference=str(tmp_path / "none.safetensors"))
