"""The reward of groups of restorations: the card's numbers, shares of texture as the authors' code has them, and groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffalign.evaluation import score_records
from diffalign.exceptions import ConfigError
from diffalign.rewards import (
    JPEGReward,
    RewardServer,
    Sample,
    SceneReward,
    SRAttributeReward,
    cached,
    isolated,
    load_reward,
)
from diffalign.rewards.sr_attribute import attribute_aware_reward, texture_share
from tests.rewards.photo_like import blurred, noisy, photo_like


def half_flat(picture: np.ndarray) -> np.ndarray:
    flat = picture.copy()
    flat[:, : picture.shape[1] // 2] = (200, 40, 90)
    return flat


# The share, as the authors' my_utils/mask.py gives it (OpenCV 5.0), and in mode fixed.
SHARES = [
    (photo_like(), 1.0, 1.0),
    (blurred(photo_like(), 4), 0.25, 0.34),
    (half_flat(photo_like(97, 63, seed=1)), 0.52, 0.52),
    (blurred(photo_like(120, 110, seed=3), 2), 0.97, 0.98),
]


def card(min_range: float | None, psnr: tuple[float, ...] = (24.0, 25.0, 23.0, 26.0)) -> torch.Tensor:
    scores = torch.tensor([[60.0, 66.0, 70.0, 62.0], [0.40, 0.55, 0.60, 0.45]], dtype=torch.float64)
    share = [torch.tensor([value], dtype=torch.float64) for value in (0.30, 0.70)]
    fidelity = torch.tensor([psnr], dtype=torch.float64)
    return attribute_aware_reward(fidelity, scores[:, None], smooth=share[0], texture=share[1], min_range=min_range)


@pytest.mark.parametrize("min_range", [None, 1e-8])
def test_the_cards_numbers(min_range: float | None) -> None:
    torch.testing.assert_close(card(min_range)[0].tolist(), [0.1, 0.6725, 0.7, 0.4575])


def test_a_score_on_which_all_agree() -> None:
    same = (24.0, 24.0, 24.0, 24.0)
    assert card(None, same).isnan().all()
    torch.testing.assert_close(card(1e-8, same)[0].tolist(), [0.0, 0.4725, 0.7, 0.1575])


@pytest.mark.parametrize(("picture", "parity", "fixed"), SHARES)
def test_shares_of_texture(picture: np.ndarray, parity: float, fixed: float) -> None:
    assert texture_share(picture, mode="parity") == parity
    assert texture_share(picture) == fixed


def test_edge_tiles_and_colours_are_what_modes_differ_in() -> None:
    strip = photo_like(12, 12)  # one whole tile, and edges of 2 pixels
    assert texture_share(strip, mode="parity") < texture_share(strip) == 1.0
    assert texture_share(np.full((20, 20, 3), 77, np.uint8)) == 0.0
    red = np.zeros((10, 10, 3), np.uint8)
    red[:, ::2, 0] = 12  # faint stripes of red: more of the grey than the same of blue
    blue = red[..., ::-1].copy()
    assert texture_share(red, mode="parity") == texture_share(blue)
    assert texture_share(blue, mode="parity") == texture_share(red)


def group(name: str, original: np.ndarray, *restored: np.ndarray) -> list[Sample]:
    facts = {"group": name, "reference": original}
    return [Sample(each, metadata=facts, id=f"{name}{place}") for place, each in enumerate(restored)]


def spoilt(original: np.ndarray) -> list[np.ndarray]:
    return [original, blurred(original, 1), noisy(original, 12)]


def test_groups_are_judged_by_themselves_in_any_order() -> None:
    reward = SRAttributeReward([load_reward("brisque"), JPEGReward(direction="incompressible")])
    one, other = photo_like(64, 64), half_flat(photo_like(64, 72, seed=1))
    samples = group("a", one, *spoilt(one)) + group("b", other, *spoilt(other))
    together, order = reward.score(samples), [4, 0, 3, 5, 2, 1]
    apart = torch.cat([reward.score(samples[:3]).values, reward.score(samples[3:]).values])
    torch.testing.assert_close(together.values, apart, rtol=0, atol=0)
    torch.testing.assert_close(reward.score([samples[i] for i in order]).values, apart[order], rtol=0, atol=0)
    assert together.components["texture"].tolist() == pytest.approx([1.0] * 3 + [texture_share(other)] * 3)
    assert together.components["psnr"][[0, 3]].tolist() == [100.0, 100.0]
    assert set(together.components) == {"psnr", "texture", "brisque", "jpeg"}


def test_values_are_the_formula_of_the_components() -> None:
    original = half_flat(photo_like(64, 72, seed=1))
    output = SRAttributeReward([load_reward("brisque")]).score(group("a", original, *spoilt(original)))
    psnr, quality = (output.components[name].double().numpy() for name in ("psnr", "brisque"))
    scaled = [(each - each.min()) / np.ptp(each) for each in (psnr, quality)]
    texture = texture_share(original)
    expected = (1 - texture) * scaled[0] + texture * scaled[1]
    assert output.values.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_parity_says_why_a_group_of_equals_has_no_value() -> None:
    original = photo_like(32, 32)
    samples = group("a", original, original, original)
    output = SRAttributeReward([load_reward("brisque")], mode="parity").score(samples)
    assert output.values.isnan().all() and "a score is the same for all of group 'a'" in str(output.reasons[0])
    assert SRAttributeReward([load_reward("brisque")]).score(samples).values.tolist() == [0.0, 0.0]


def test_one_bad_sample_spares_its_group() -> None:
    original = photo_like(32, 32)
    reward = SRAttributeReward([load_reward("brisque")])
    good = group("a", original, *spoilt(original))
    bad = [Sample(original, metadata={"reference": original}), Sample(original, metadata={"group": "a"})]
    output = reward.score([bad[0], *good, bad[1], *group("a", original, original[:16])])
    torch.testing.assert_close(output.values[1:4], reward.score(good).values, rtol=0, atol=0)
    assert output.values[[0, 4, 5]].isnan().all()
    assert "metadata['group']" in str(output.reasons[0]) and "reference" in str(output.reasons[4])
    assert "one size" in str(output.reasons[5])


def test_settings_are_checked(unchecked_types: None) -> None:
    brisque = load_reward("brisque")
    with pytest.raises(ConfigError, match=r"sr_attribute\.quality: must be rewards of different names"):
        SRAttributeReward([brisque, brisque])
    with pytest.raises(ConfigError, match=r"sr_attribute\.quality: scene needs prompt"):
        SRAttributeReward([SceneReward()])
    with pytest.raises(ConfigError, match=r"sr_attribute\.mode: must be 'fixed' or 'parity', got 'paper'"):
        SRAttributeReward([brisque], mode="paper")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"sr_attribute\.min_range: must be >= 0, got -1"):
        SRAttributeReward([brisque], min_range=-1)


def make() -> SRAttributeReward:
    return SRAttributeReward([JPEGReward()])


def test_nothing_that_cuts_or_remembers_batches_takes_it(tmp_path) -> None:
    with pytest.raises(ConfigError, match="go by the others of their group, so that none can be kept"):
        cached(make(), tmp_path)
    with pytest.raises(ConfigError, match="a worker gets samples in parts"):
        isolated(f"{__file__}:make")
    with pytest.raises(ConfigError, match="the scores of sr go by the others of their group"):
        RewardServer({"sr": make()}, port=0)
    with pytest.raises(ConfigError, match="groups that have to come whole"):
        score_records(tmp_path, tmp_path / "scores.jsonl", [make()])


def test_a_batch_that_memory_does_not_hold_is_not_cut(monkeypatch) -> None:
    reward = make()

    def full(media, samples):
        raise MemoryError

    monkeypatch.setattr(reward, "judge_batch", full)
    original = photo_like()
    batch = [Sample(noisy(original, sigma), metadata={"group": 1, "reference": original}) for sigma in (5, 9)]
    assert reward.score(batch).reasons == ("memory does not hold all of its batch, which cannot be cut",) * 2
