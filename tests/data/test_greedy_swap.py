"""D+ and D- for rewards of whole sets: invariants, the mean as a special case, exhaustive search, and the passes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from diffalign.data import SwapResult, greedy_swap, paired_by_reward
from diffalign.data.contrast_sets import IncrementalSetReward
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import EncodedSetReward, FrechetReward, VendiReward, load_encoder
from diffalign.rewards.functional import gaussian_statistics

LATENTS = load_encoder("latents")


class MeanReward:
    """The mean of rewards of single samples; it counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def start(self, features: Tensor) -> Tensor:
        return features[:, 0].clone()

    def value(self, state: Tensor) -> float:
        self.asked += 1
        return float(state.mean())

    def swap(self, state: Tensor, place: int, row: Tensor) -> Tensor:
        return torch.cat([state[:place], row, state[place + 1 :]])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def set_rewards(width: int) -> dict[str, EncodedSetReward]:
    reference = gaussian_statistics(drawn(60, width, seed=7))
    return {"vendi": VendiReward(encoder=LATENTS), "frechet": FrechetReward(reference, encoder=LATENTS)}


def value_of(reward: EncodedSetReward, x: Tensor) -> float:
    return reward.value(reward.start(x))


def test_the_mean_gives_the_best_of_each_group():
    x = drawn(30, 2, 1)
    x[4] = 0.5  # a tie
    found, expected = greedy_swap(MeanReward(), x), paired_by_reward(x[..., 0])
    assert torch.equal(found.contrast.positive, expected.positive)
    assert torch.equal(found.contrast.negative, expected.negative)
    assert torch.equal(found.contrast.valid, expected.valid) and not expected.valid[4]
    assert found.positive_reward == pytest.approx(x.amax(1).mean().item())
    assert found.negative_reward == pytest.approx(x.amin(1).mean().item())


def _is_sound(found: SwapResult, reward: EncodedSetReward, x: Tensor) -> None:
    pairs = found.contrast.pick(x)
    assert found.contrast.valid.all() and (found.contrast.positive != found.contrast.negative).all()
    assert found.positive_reward == pytest.approx(value_of(reward, pairs[:, 0]), abs=1e-12)
    assert found.negative_reward == pytest.approx(value_of(reward, pairs[:, 1]), abs=1e-12)
    assert found.first_reward == value_of(reward, x[:, 0]) and found.second_reward == value_of(reward, x[:, 1])
    assert found.positive_reward >= max(found.first_reward, found.second_reward) - 1e-9


@pytest.mark.parametrize("kind", ["vendi", "frechet"])
@pytest.mark.parametrize("shape", [(20, 2, 4), (8, 2, 40)])
def test_never_worse_than_the_start(kind, shape):
    reward, x = set_rewards(shape[2])[kind], drawn(*shape, seed=1)
    found = greedy_swap(reward, x, passes=5)
    _is_sound(found, reward, x)
    assert found.swaps > 0 and found.positive_reward > max(found.first_reward, found.second_reward)
    assert found.positive_reward > found.negative_reward


@pytest.mark.parametrize("kind", ["vendi", "frechet"])
@pytest.mark.parametrize("seed", range(6))
def test_close_to_the_best_of_all_splits(kind, seed):
    """More passes get no worse, none beats the best of all splits, and it stops where no single exchange helps."""
    reward, x = set_rewards(3)[kind], drawn(7, 2, 3, seed=seed)
    here = torch.arange(7)
    every = {sides: value_of(reward, x[here, torch.tensor(sides)]) for sides in itertools.product((0, 1), repeat=7)}
    one, many = greedy_swap(reward, x), greedy_swap(reward, x, passes=20)
    assert one.positive_reward <= many.positive_reward + 1e-9 <= max(every.values()) + 2e-9
    sides = many.contrast.positive.tolist()
    for place in range(7):
        sides[place] = 1 - sides[place]
        assert every[tuple(sides)] <= many.positive_reward + 1e-9
        sides[place] = 1 - sides[place]


def test_a_drawn_order_is_of_its_seed_and_differs_from_the_given_one():
    reward, x = set_rewards(3)["frechet"], drawn(30, 2, 3, seed=3)
    results = [greedy_swap(reward, x, order=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(results[0].contrast.positive, results[1].contrast.positive)
    assert len({result.positive_reward for result in results}) > 1
    for result in results:
        _is_sound(result, reward, x)


def test_one_question_per_group_and_pass():
    reward = MeanReward()
    greedy_swap(reward, drawn(30, 2, 1), passes=9)
    assert reward.asked == 2 + 30 + 30 + 2  # the starts, a pass with exchanges, one without, and the results


def test_samples_that_are_not_finite_take_no_part():
    x = drawn(6, 3, 2)
    x[0, 1] = torch.nan  # the first two that can are 0 and 2
    x[1, :2] = torch.inf  # one is left: no pair
    reward = set_rewards(2)["vendi"]
    found = greedy_swap(reward, x)
    assert found.contrast.valid.tolist() == [True, False, True, True, True, True]
    assert {int(found.contrast.positive[0]), int(found.contrast.negative[0])} == {0, 2}
    assert found.contrast.positive[1] == found.contrast.negative[1] == -1
    assert found.contrast.positive[2:].max() <= 1 and found.contrast.negative[2:].max() <= 1  # the third stands by
    pairs = torch.stack([x[0, [0, 2]], *x[2:, :2]])
    assert greedy_swap(reward, pairs).positive_reward == pytest.approx(found.positive_reward)
    assert found.contrast.labels(3).abs().sum(1).tolist() == [2, 0, 2, 2, 2, 2]


def test_equal_samples_stand_in_both_sets_and_are_not_contrasted():
    x = drawn(5, 2, 3)
    x[2, 1] = x[2, 0]
    reward = set_rewards(3)["vendi"]
    found = greedy_swap(reward, x)
    assert found.contrast.valid.tolist() == [True, True, False, True, True]
    assert found.first_reward == value_of(reward, x[:, 0])


def test_refused():
    x = drawn(4, 2, 1)
    with pytest.raises(ConfigError, match="passes: must be >= 1, got 0"):
        greedy_swap(MeanReward(), x, passes=0)
    with pytest.raises(DataError, match="no group has two samples"):
        greedy_swap(MeanReward(), torch.full((4, 2, 1), torch.nan))
    with pytest.raises(DataError, match="no group has two samples"):
        greedy_swap(MeanReward(), x[:, :1])

    class Blank(MeanReward):
        def value(self, state: Tensor) -> float:
            return float("nan")

    with pytest.raises(DataError, match="of the first samples is nan, of the second ones nan: no numbers"):
        greedy_swap(Blank(), x)


def test_rewards_of_sets_fit_the_protocol():
    assert all(isinstance(reward, IncrementalSetReward) for reward in (*set_rewards(2).values(), MeanReward()))
