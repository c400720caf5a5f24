"""Rewards of whole sets: the three lines, agreement with the formulas, exchanges, bad samples, and the table."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.config import rewards as config_rewards
from diffalign.config.rewards import JPEGParams, VendiParams
from diffalign.exceptions import ConfigError, DataError, ShapeError
from diffalign.rewards import (
    ENCODERS,
    SET_REWARDS,
    EncodedSetReward,
    FrechetReward,
    Sample,
    SetReward,
    VendiReward,
    build_reward,
    build_set_reward,
    load_encoder,
    load_reward,
)
from diffalign.rewards.functional import frechet_distance, gaussian_statistics, vendi_score, vendi_score_of
from diffalign.rewards.scene import parse_caption, render_scene

LATENTS = load_encoder("latents")


def scenes(captions: list[str]) -> list[Image.Image]:
    return [render_scene(parse_caption(text), np.random.default_rng(seed)) for seed, text in enumerate(captions)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rewards(width: int) -> list[EncodedSetReward]:
    reference = gaussian_statistics(drawn(40, width, seed=9) + 0.3)
    few = gaussian_statistics(drawn(4, width, seed=8))  # a covariance of rank 3
    return [
        VendiReward(encoder=LATENTS),
        VendiReward(encoder=LATENTS, q=math.inf, kernel="cosine"),
        FrechetReward(reference, encoder=LATENTS),
        FrechetReward(few, encoder=LATENTS),
    ]


KINDS = ["vendi", "vendi inf cosine", "frechet", "frechet to few"]


def test_three_lines():
    reward = load_reward("vendi")
    alike = ["a red circle"] * 5
    unlike = ["a red circle", "a blue square", "two green crosses", "a white cross", "a purple circle"]
    value = reward(scenes(unlike))
    assert value.shape == () and 1 < reward(scenes(alike)) < value < 5
    assert reward([scenes(alike)[0]] * 5) == pytest.approx(1)


@pytest.mark.parametrize("width", [3, 30])  # fewer features than samples, and more
def test_rewards_are_the_formulas(width):
    x = drawn(12, width)
    correlation, cosine, distance, _ = rewards(width)
    assert correlation(x) == pytest.approx(float(vendi_score(np.corrcoef(x.numpy()))), rel=1e-6)
    assert cosine(x) == pytest.approx(float(vendi_score_of(x, math.inf)), rel=1e-6)
    reference = gaussian_statistics(drawn(40, width, seed=9) + 0.3)[:2]
    expected = -float(frechet_distance(*gaussian_statistics(x)[:2], *reference))
    assert distance.score_set([Sample(row) for row in x]).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", range(4), ids=KINDS)
@pytest.mark.parametrize("width", [3, 30])
def test_exchanges_agree_with_a_fresh_look(width, kind):
    reward, x, others = rewards(width)[kind], drawn(12, width), drawn(50, width, seed=1)
    state, seen = reward.start(x), x.clone()
    before = reward.value(state)
    for turn, row in enumerate(others):
        swapped = reward.swap(state, turn % 12, row)
        if turn == 0:
            assert reward.value(state) == before  # what was there stays as it was
        state = swapped
        seen[turn % 12] = row
    assert reward.value(state) == pytest.approx(reward.value(reward.start(seen)), abs=1e-9)


@pytest.mark.parametrize("kind", range(4), ids=KINDS)
def test_order_says_nothing_and_the_range_holds(kind):
    reward, x = rewards(6)[kind], drawn(9, 6)
    value = reward.value(reward.start(x))
    assert reward.value(reward.start(x.flip(0))) == pytest.approx(value, abs=1e-9)
    assert reward.spec.range[0] <= value <= reward.spec.range[1]
    assert isinstance(reward, SetReward) and hash(reward.spec) is not None
    assert reward.spec.level in ("set", "set_to_set") and reward.spec.media == "features"


def test_the_reference_itself_is_at_zero():
    x = drawn(20, 5)
    reward = FrechetReward(gaussian_statistics(x), encoder=LATENTS)
    assert reward.value(reward.start(x)) == pytest.approx(0, abs=1e-9)
    assert reward.value(reward.start(x + 1)) == pytest.approx(-5, abs=1e-9)


@pytest.mark.parametrize("kind", range(4), ids=KINDS)
def test_leave_one_out(kind):
    reward, x = rewards(4)[kind], drawn(6, 4)
    credit = reward.leave_one_out(x)
    rest = torch.cat([x[:2], x[3:]])
    assert credit[2].item() == pytest.approx(reward.value(reward.start(x)) - reward.value(reward.start(rest)))
    with pytest.raises(DataError, match=r"needs [23] samples or more, got"):
        reward.leave_one_out(x[: reward.least])


def test_a_copy_adds_less_than_what_is_new():
    x = torch.cat([torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1]]])
    credit = VendiReward(encoder=LATENTS, kernel="cosine").leave_one_out(x)
    assert credit[3] > 0 > credit[0] and credit[:3].unique().numel() == 1


def test_bad_samples_are_left_out_with_a_reason(caplog):
    good = scenes(["a red circle", "a blue square", "two green crosses"])
    grey = np.full((32, 32, 3), 90, np.uint8)
    broken = Sample(torch.full((3, 8, 8), torch.nan), id="broken")
    batch = [Sample(good[0]), broken, Sample(good[1]), Sample(grey), Sample(good[2])]
    reward = load_reward("vendi")
    output = reward.score_set(batch)
    assert output.counted == 3 and output.value == reward.score_set([Sample(one) for one in good]).value
    assert "not finite" in output.reasons[1] and "all its features are equal" in output.reasons[3]
    assert [reason is None for reason in output.reasons] == [True, False, True, False, True]
    assert "2 of 5 samples left out; the first, 'broken'" in caplog.text
    rows, _ = reward.features(batch)
    assert rows.isnan().all(1).tolist() == [False, True, False, True, False]


def test_too_few_samples_are_nan(caplog):
    distance = rewards(3)[2]
    assert distance(drawn(1, 3)).isnan() and "needs 2 samples or more, got 1" in caplog.text
    assert load_reward("vendi")([]).isnan()
    assert distance.score_set([]).counted == 0
    with pytest.raises(DataError, match="frechet: needs 2 samples or more, got 1"):
        distance.start(drawn(1, 3))


def test_widths_must_agree():
    vendi, _, distance, _ = rewards(3)
    with pytest.raises(ShapeError, match="equally many features, got 3, 4"):
        vendi([torch.ones(3), torch.ones(4)])
    assert distance.score_set([Sample(torch.ones(4))]).reasons == ("it has 4 features, the reference 3",)
    with pytest.raises(ShapeError, match=r"frechet: features must be \[samples, 3\], got \[5, 4\]"):
        distance.start(drawn(5, 4))
    with pytest.raises(DataError, match="features of sample 0 are not finite"):
        vendi.swap(vendi.start(drawn(5, 4)), 0, torch.full((4,), math.nan, dtype=torch.float64))


# ---------------------------------------------------------------- encoders


def test_pixels_are_means_over_boxes():
    picture = torch.rand(3, 16, 32, generator=torch.Generator().manual_seed(0))
    (row,) = load_encoder("pixels").encode([picture])
    expected = (picture * 255).round().reshape(3, 8, 2, 8, 4).mean((2, 4)) / 255 - 0.5
    torch.testing.assert_close(row, expected.double().flatten(), rtol=0, atol=1e-6)


def test_forms_of_pictures_agree():
    images = scenes(["a red circle", "a blue square"])
    tensor = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255
    reward = load_reward("vendi")
    assert reward(images) == reward(tensor) == reward(np.stack([np.asarray(image) for image in images]))


def test_latents_of_any_shape_are_flattened():
    x = drawn(5, 4, 3, 2)
    reward = load_reward("vendi", encoder="latents")
    assert reward(x) == reward(x.flatten(1)) == reward(list(x))
    assert reward.score_set([Sample("x"), Sample(x[0])]).reasons[0] == "latents must be a tensor or an array, got str"
    with pytest.raises(DataError, match=r"latents must be a tensor .* got str"):
        reward("x")


def test_settings_name_every_encoder():
    assert set(config_rewards.ENCODERS) == set(ENCODERS)
    for name, kind in ENCODERS.items():
        assert kind.name == name
    with pytest.raises(ConfigError, match=f"encoder: must be one of {', '.join(ENCODERS)}, got 'clap'"):
        load_encoder("clap")
    with pytest.raises(ConfigError, match=r"encoder clip.modl: unknown option; known options: model, device, batch"):
        load_encoder("clip:modl=x")
    with pytest.raises(ConfigError, match=r"encoder pixels.side: unknown option; known options: none"):
        load_encoder("pixels:side=4")


# ---------------------------------------------------------------- the table


def test_the_table_is_consistent():
    for name, entry in SET_REWARDS.items():
        assert entry.params.model_fields["name"].default == name
    assert build_set_reward(VendiParams()).spec == load_reward("vendi").spec == VendiReward().spec
    assert load_reward("vendi", q=math.inf, kernel="cosine").spec.version == "1-pixels1-cosine-qinf"
    with pytest.raises(ConfigError, match="must be one of VendiParams, FrechetParams, FADParams, got JPEGParams"):
        build_set_reward(JPEGParams())
    with pytest.raises(ConfigError, match=r"must be one of SceneParams, JPEGParams, .*, got VendiParams"):
        build_reward(VendiParams())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vendi", {"q": -1}, "vendi.q: must be >= 0.0, got -1"),
        (
            "vendi",
            {"encoder": "clap"},
            "vendi.encoder: must be one of pixels, perceptual, clip, latents, aisfx, speaker, got 'clap'",
        ),
        ("vendi", {"kernal": "cosine"}, "vendi.kernal: unknown option; did you mean 'kernel'?"),
        ("frechet", {}, "frechet.reference: required, but missing: load_reward('frechet', reference=...)"),
        ("frechet", {"reference": "/nowhere"}, "frechet.reference: no such file or folder: /nowhere"),
        ("vendy", {}, "fad_song, stability, vendi, frechet, fad, got 'vendy'; did you mean 'vendi'?"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_reward(name, **options)


def test_parts_are_checked_too(unchecked_types):
    with pytest.raises(ConfigError, match=r"vendi.kernel: must be 'correlation' or 'cosine', got 'rbf'"):
        VendiReward(kernel="rbf")
    with pytest.raises(ConfigError, match=r"vendi.q: must be >= 0, got nan"):
        VendiReward(q=math.nan)
