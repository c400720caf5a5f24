"""Agreement against numbers worked out by hand, and what cannot be said."""

from __future__ import annotations

import pytest

from diffalign.annotation import agreement, cohen_kappa, krippendorff_alpha, summarise, wilson
from tests.annotation.conftest import vote


def test_cohen_kappa_by_hand():
    # 50 answers: both yes 20, both no 15, yes/no 5, no/yes 10. observed 0.7; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; 0.4
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ("ab", "ab", 1.0),
        ("ab", "ba", -1.0),
        ("aabb", "abab", 0.0),
        ("aaa", "aab", 0.0),  # one always says the same: what they share is chance
        ("aaa", "aaa", None),
        ("", "", None),
    ],
)
def test_cohen_kappa_at_the_ends(first, second, kappa):
    found = cohen_kappa(first, second)
    assert found is None if kappa is None else found == pytest.approx(kappa)
    assert cohen_kappa(second, first) == found


def test_cohen_kappa_needs_answers_to_the_same_questions():
    with pytest.raises(ValueError, match="2 and 1 answers"):
        cohen_kappa("ab", "a")


def test_alpha_of_krippendorffs_example():
    """Section C of the paper: 4 observers, 12 units, missing values; alpha nominal = 0.743."""
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    units = [[value for value in unit if value != "."] for unit in zip(*map(str.split, observers), strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_observers_by_hand():
    # units aa, ab, bb: observed disagreement 2 of 6 pairable values; expected (36 - 9 - 9) / (6 * 5) = 0.6; 1 - 5/9
    assert krippendorff_alpha(["aa", "ab", "bb"]) == pytest.approx(1 - (2 / 6) / 0.6)
    assert krippendorff_alpha(["aa", "ab", "bb", "a"]) == krippendorff_alpha(["bb", "aa", "ba"])


def test_alpha_undefined():
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha(["a", "b"]) is None
    assert krippendorff_alpha(["aa", "aaa"]) is None


def test_agreement_of_votes():
    votes = [
        *(vote(name, choice, "anna") for name, choice in zip("123456", "aabbab", strict=True)),
        *(vote(name, choice, "ben") for name, choice in zip("12345", "aabba", strict=True)),
        vote("6", "skip", "ben"),  # not judged
        vote("1", "b", "cleo"),
    ]
    found = agreement(votes)
    assert [(two.raters, two.common, two.agreement, two.kappa) for two in found.pairs] == [
        (("anna", "ben"), 5, 1.0, 1.0),
        (("anna", "cleo"), 1, 0.0, 0.0),
        (("ben", "cleo"), 1, 0.0, 0.0),
    ]
    assert found.comparisons == 5
    # units aab, aa, bb, bb, aa; n 11, a 6, b 5: disagreement 4 / 2 = 2; expected 121 - 36 - 25 = 60
    assert found.alpha == pytest.approx(1 - 10 * 2 / 60)


def test_nothing_in_common_and_one_person():
    assert agreement([vote("1", "a")]).pairs == ()
    (two,) = agreement([vote("1", "a"), vote("2", "a", "ben")]).pairs
    assert (two.common, two.agreement, two.kappa) == (0, None, None)


def test_summary_counts_sides_and_seconds():
    votes = [
        vote("1", "a", order="ab", seconds=1.0),  # left
        vote("2", "a", order="ba", seconds=2.0),  # right
        vote("3", "b", order="ba", seconds=9.0),  # left
        vote("4", "tie", seconds=4.0),
        vote("1", "bad", "ben", seconds=30.0),
    ]
    found = summarise(votes)
    anna, ben = found.raters
    assert (anna.rater, anna.votes, anna.seconds) == ("anna", 4, 3.0)
    assert anna.choices == {"a": 2, "b": 1, "tie": 1, "bad": 0, "skip": 0}
    assert (anna.left.count, anna.left.of, anna.left.value) == (2, 3, 2 / 3)
    assert (anna.left.low, anna.left.high) == wilson(2 / 3, 3)
    assert (ben.left.value, ben.left.low, ben.left.high) == (None, None, None)
    assert (found.all.votes, found.all.seconds, found.comparisons) == (5, 4.0, 4)
    assert summarise([]).all.seconds is None


def test_wilson_interval():
    # middle 1/2, half 1.96 sqrt(0.25/20 + 1.96²/1600) / (1 + 1.96²/20) = 0.2007
    assert wilson(0.5, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert wilson(0.0, 5) == pytest.approx((0.0, 0.4345), abs=1e-4)
    assert wilson(1.0, 5)[1] == 1.0
