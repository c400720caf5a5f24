"""Comparisons as they stand: pictures in the row's order, ties kept, each dimension apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.data import ReadCounts, Source, read_records
from diffalign.data.comparisons import OVERALL, compared_by_reward, read_comparisons
from diffalign.exceptions import DataError
from tests.data.pictures import groups_folder, pairs_folder, picture_file, write_rows


def said(home: Path, *dimensions: str, **columns: Any) -> list[dict[str, tuple[float, float]]]:
    found = read_comparisons(Source(pairs_folder(home, 1, **columns)), dimensions=dimensions or (OVERALL,))
    return [dict(each.said) for record in found for each in record.comparisons]


@pytest.mark.parametrize(
    ("columns", "shares"),
    [
        ({}, (1.0, 0.0)),
        ({"preference": 0.75}, (0.75, 0.25)),
        ({"preference": 0.25}, (0.25, 0.75)),
        ({"votes": {"a": 1, "b": 2, "tie": 1}}, (0.25, 0.5)),
        ({"votes": {"tie": 3}}, (0.0, 0.0)),
    ],
)
def test_shares_of_a_pair(columns, shares, tmp_path):
    assert said(tmp_path / "pairs", **columns) == [{OVERALL: shares}]


def test_pictures_stand_in_the_rows_order(tmp_path):
    """Where training on pairs puts the preferred one first, and leaves ties out."""
    home = pairs_folder(tmp_path / "pairs", 1, votes={"a": 1, "b": 3})
    (record,) = read_comparisons(Source(home))
    assert [picture.name for picture in record.pictures] == ["0a.png", "0b.png"]
    (trained_on,) = read_records(home)
    assert [picture.name for picture in trained_on.items] == ["0b.png", "0a.png"] and trained_on.preference == 0.75


def test_dimensions_apart_and_missing_ones_left_out(tmp_path):
    preferences = {"VQ": "b", "MQ": "tie", "TA": {"a": 3, "b": 1}, "XX": None}
    home = tmp_path / "pairs"
    assert said(home, "VQ", "MQ", "TA", "XX", OVERALL, preferences=preferences) == [
        {"VQ": (0.0, 1.0), "MQ": (0.0, 0.0), "TA": (0.75, 0.25), OVERALL: (1.0, 0.0)}
    ]


def test_record_that_says_nothing_is_bad(tmp_path):
    home = pairs_folder(tmp_path / "pairs", 2, preferences={"VQ": "a"})
    with pytest.raises(DataError, match=r"record 'r0': column 'preferences' says nothing of TA, MQ, got {'VQ': 'a'}"):
        list(read_comparisons(Source(home), dimensions=("TA", "MQ")))
    counts = ReadCounts()
    with pytest.raises(DataError, match=r"no usable pairs .2 bad rows; the first: record 'r0'"):
        list(read_comparisons(Source(home), dimensions=("TA",), on_bad="skip", counts=counts))
    assert (counts.kept, counts.bad) == (0, 2)


def test_wrong_word_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"record 'r0': preferences\.VQ must be 'a', 'b' or 'tie', or votes, got 'left'"
    ):
        said(tmp_path / "pairs", "VQ", preferences={"VQ": "left"})


def test_pick_a_pic_as_it_is(tmp_path):
    pictures = {"caption": "a cat", "jpg_0": "0.png", "jpg_1": "1.png"}
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture_file(number))
    write_rows(tmp_path / "metadata.jsonl", [pictures | {"label_0": label} for label in (1, 0, 0.5)])
    counts = ReadCounts()
    found = list(read_comparisons(Source(tmp_path), counts=counts))
    assert [each.comparisons[0].said[OVERALL] for each in found] == [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    assert (counts.kept, counts.ties) == (3, 1)


def test_groups_are_all_their_pairs(tmp_path):
    (record,) = read_comparisons(Source(groups_folder(tmp_path / "groups", [[0.3, 0.9, None]])), "groups")
    assert [picture.name for picture in record.pictures] == ["0-1.png", "0-0.png", "0-2.png"]
    assert record.rewards is not None
    assert record.rewards[:2] == (0.9, 0.3) and np.isnan(record.rewards[2])
    assert [(each.first, each.second, each.said[OVERALL]) for each in record.comparisons] == [(0, 1, (1.0, 0.0))]


def test_other_columns_are_kept_and_what_was_said_is_not(tmp_path):
    columns = {"notes": [69], "source": "x", "votes": {"a": 2}, "preferences": {"VQ": "a"}}
    home = pairs_folder(tmp_path / "pairs", 1, **columns)
    (pair,) = read_comparisons(Source(home))
    assert pair.columns == {"notes": [69], "source": "x"} and pair.home == home
    (group,) = read_comparisons(Source(groups_folder(tmp_path / "groups", [[0.3, 0.9]], reference="r.png")), "groups")
    assert group.columns == {"reference": "r.png"} and group.home == tmp_path / "groups"


def test_margin_ties_what_is_near():
    found = compared_by_reward([2.0, 1.9, 0.0], 0.2)
    assert [each.said[OVERALL] for each in found] == [(0.0, 0.0), (1.0, 0.0), (1.0, 0.0)]
    assert [each.said[OVERALL] for each in compared_by_reward([0.0, 1.0], 0.0)] == [(0.0, 1.0)]


def test_group_with_one_scored_item_has_nothing_to_compare(tmp_path):
    home = groups_folder(tmp_path / "groups", [[0.3, None]])
    with pytest.raises(DataError, match="record 'g0': has fewer than two scored items"):
        list(read_comparisons(Source(home), "groups"))


def test_limit_and_ids(tmp_path):
    home = pairs_folder(tmp_path / "pairs", 3)
    assert [record.id for record in read_comparisons(Source(home), limit=2)] == ["r0", "r1"]
    lines = (home / "metadata.jsonl").read_text().replace('"r1"', '"r0"')
    (home / "metadata.jsonl").write_text(lines)
    with pytest.raises(DataError, match="record 'r0': this id stands twice"):
        list(read_comparisons(Source(home)))
