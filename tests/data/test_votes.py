"""What people said, to pairs, groups and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffalign.annotation import VoteFile, preferences, read_comparisons
from diffalign.annotation.ballot import Ballot
from diffalign.annotation.comparisons import first_side
from diffalign.data import read_records
from diffalign.exceptions import ConfigError, DataError
from tests.data.judged_folder import by_reward, made, scored
from tests.data.pictures import write_rows


def said(comparison: str, a: int, b: int, vote: str, rater: str = "anna", prompt: str = "prompt 0") -> dict[str, Any]:
    return {
        "comparison": comparison, "prompt": prompt, "a": f"p{a}.png", "b": f"p{b}.png", "vote": vote, "rater": rater,
        "order": "ab", "seconds": 3.2, "time": "2026-01-01T12:00:00Z",
    }  # fmt: skip


def votes_file(home: Path, *lines: dict[str, Any], tail: str = "") -> Path:
    path = home / "votes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


@pytest.fixture
def source(tmp_path):
    return by_reward(tmp_path, [0.0, 0.0, 0.0, 0.0], [0.0])


def test_majority_decides_and_its_share_is_a_soft_preference(tmp_path, source):
    lines = [
        said("0", 0, 1, vote, rater) for vote, rater in (("a", "anna"), ("b", "ben"), ("b", "cem"), ("tie", "dan"))
    ]
    rows, done = made(source, votes=votes_file(tmp_path, *lines))
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("p1.png", "p0.png")
    assert rows[0]["votes"] == {"a": 2, "b": 1, "tie": 1}
    (record,) = read_records(done.file)
    assert record.items[0].name == "p1.png"
    assert record.preference == pytest.approx(2.5 / 4)


def test_later_line_of_one_rater_replaces_the_earlier_one(tmp_path, source):
    lines = [said("0", 0, 1, "a"), said("0", 0, 1, "b"), said("1", 2, 3, "a"), said("1", 2, 3, "skip")]
    rows, done = made(source, votes=votes_file(tmp_path, *lines))
    assert [row["votes"] for row in rows] == [{"a": 1, "b": 0, "tie": 0}]
    assert rows[0]["chosen"] == "p1.png"
    assert done.dropped == {"skipped": 1}


def test_one_pair_in_two_comparisons_is_one_pair(tmp_path, source):
    lines = [said("0", 0, 1, "a"), said("1", 1, 0, "b", "ben"), said("2", 1, 0, "tie", "cem")]
    (row,), _ = made(source, votes=votes_file(tmp_path, *lines))
    assert (row["chosen"], row["votes"]) == ("p0.png", {"a": 2, "b": 0, "tie": 1})


def test_nobody_votes_twice_on_two_pictures_by_whatever_id(tmp_path, source):
    lines = [said("0", 0, 1, "a"), said("1", 1, 0, "a")]
    (row,), _ = made(source, votes=votes_file(tmp_path, *lines))
    assert (row["chosen"], row["votes"]) == ("p1.png", {"a": 1, "b": 0, "tie": 0})


def test_lines_without_a_rater_are_people_of_their_own(tmp_path, source):
    lines = [{key: each[key] for key in ("a", "b", "vote")} for each in [said("", 0, 1, "a")] * 3]
    (row,), _ = made(source, votes=votes_file(tmp_path, *lines))
    assert row["votes"] == {"a": 3, "b": 0, "tie": 0}


def test_a_picture_under_two_prompts(tmp_path):
    """The same file is in two records of pairs; a vote says of which prompt it is."""
    source = scored(tmp_path, {"p": [{}, {}], "q": [{}, {}]})
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows[2]["file_name"] = "p0.png"
    write_rows(source, rows)
    lines = [said("0", 0, 1, "a", prompt="p"), said("1", 0, 3, "b", prompt="q")]
    kept, _ = made(source, votes=votes_file(tmp_path, *lines))
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in kept] == [
        ("p", "p0.png", "p1.png"), ("q", "p3.png", "p0.png"),
    ]  # fmt: skip


@pytest.mark.parametrize("gone", [{"a": "q.png"}, {"prompt": "other"}])
def test_votes_on_what_is_not_there_any_more_are_counted(tmp_path, source, gone):
    lines = [said("0", 0, 1, "a"), said("1", 0, 2, "a") | gone]
    rows, done = made(source, votes=votes_file(tmp_path, *lines))
    assert [row["rejected"] for row in rows] == ["p1.png"]
    assert done.dropped == {"votes on pictures that the input has not": 1}
    with pytest.raises(DataError, match="none of its votes is on pictures and prompts of the input; paths start at"):
        made(source, votes=votes_file(tmp_path, lines[1]))


@pytest.mark.parametrize(
    ("choices", "share"),
    [
        (["a"], 1.0), (["a", "tie", "skip"], 0.75), (["b", "b", "bad"], 0.0), (["a", "b"], 0.5),
        (["b", "bad", "bad"], None), (["a", "bad"], None), (["bad"], None), (["skip"], None),
    ],
)  # fmt: skip
def test_pairs_and_rounds_read_a_file_of_votes_alike(tmp_path, choices, share):
    """Votes as the page writes them; `share` is how likely a wins, None where nothing comes of it."""
    source = scored(tmp_path, {"p": [{}, {}], "q": [{}, {}]}).rename(tmp_path / "metadata.jsonl")
    listed = {each.prompt: each for each in read_comparisons(tmp_path)}
    with VoteFile(tmp_path) as votes:
        ballot = Ballot(tmp_path, list(listed.values()), 0, votes)
        for number, (prompt, choice) in enumerate([("q", "a"), *(("p", choice) for choice in choices)]):
            name, rater = listed[prompt].id, f"rater {number}"
            left = first_side(name, rater, 0)
            if choice in ("a", "b"):
                choice = "left" if choice == left else "right"
            ballot.add({"comparison": name, "rater": rater, "choice": choice, "seconds": 1})
    of_rounds = {each.record["prompt"]: each.probability for each in preferences(tmp_path)}
    assert of_rounds == {"p": share, "q": 1.0}
    records = {each.prompt: each for each in read_records(made(source, votes=tmp_path / "votes.jsonl")[1].file)}
    assert records.keys() == ({"q"} if share in (None, 0.5) else {"p", "q"})  # nobody wins a tie
    if "p" in records:
        winner = "p0.png" if share > 0.5 else "p1.png"
        assert (records["p"].items[0].name, records["p"].preference) == (winner, max(share, 1 - share))


def test_ties_bad_ones_and_narrow_ones_are_counted(tmp_path, source):
    lines = [
        said("0", 0, 1, "a"), said("0", 0, 1, "b", "ben"),
        said("1", 0, 2, "bad"), said("1", 0, 2, "a", "ben"),
        said("2", 0, 3, "a"), said("2", 0, 3, "a", "ben"), said("2", 0, 3, "b", "cem"),
        said("3", 1, 2, "a"),
    ]  # fmt: skip
    rows, done = made(source, votes=votes_file(tmp_path, *lines), margin=0.5)
    assert [row["chosen"] for row in rows] == ["p1.png"]
    assert done.dropped == {"ties": 1, "both bad": 1, "below the margin": 1}


def test_labels_and_groups_from_votes(tmp_path, source):
    lines = [said("0", 0, 1, "a"), said("1", 2, 3, "bad"), said("2", 0, 3, "tie")]
    votes = votes_file(tmp_path, *lines)
    rows, done = made(source, "groups", votes=votes)
    assert rows[0]["rewards"] == [0.75, 0.0, 0.0, 0.25]
    rows, done = made(source, "labelled", votes=votes)
    assert [(row["id"], row["label"]) for row in rows] == [("p0", "good"), ("p1", "bad"), ("p2", "bad"), ("p3", "bad")]
    rows, _ = made(source, "experts", votes=votes, top=1)
    assert [row["id"] for row in rows] == ["p0"]
    _, done = made(source, "labelled", votes=votes_file(tmp_path, said("0", 0, 1, "a")))
    assert done.dropped == {"never compared": 3}


def test_line_that_was_cut_off_is_left_out_at_the_end_alone(tmp_path, source):
    rows, _ = made(source, votes=votes_file(tmp_path, said("0", 0, 1, "a"), tail='{"comparison": "1", "a": "p'))
    assert len(rows) == 1
    with pytest.raises(DataError, match=r"votes.jsonl, line 2: not JSON"):
        made(source, votes=votes_file(tmp_path, said("0", 0, 1, "a"), tail='{"comp\n{"x": 1}\n'))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"a": None}, "line 1: a must be a picture's file name, got None"),
        ({"a": "p0\0.png"}, r"line 1: a must be a picture's file name, got 'p0\\x00.png'"),
        ({"vote": "c"}, "line 1: vote must be one of a, b, tie, bad, skip, got 'c'"),
        (
            {"b": "p0.png"},
            "line 1: must name two pictures of one prompt, got 'p0.png' and 'p0.png' with prompt 'prompt 0'",
        ),
        ({"b": "p4.png", "prompt": None}, "line 1: must name two pictures of one prompt, got 'p0.png' and 'p4.png'"),
    ],
)
def test_bad_line_is_named(tmp_path, source, line, says):
    with pytest.raises(DataError, match=says):
        made(source, votes=votes_file(tmp_path, said("0", 0, 1, "a") | line))


def test_votes_file_elsewhere_and_votes_with_rewards(tmp_path, source):
    (tmp_path / "people").mkdir()
    rows, _ = made(source, votes=votes_file(tmp_path / "people", said("0", 0, 1, "a")))
    assert rows[0]["chosen"] == "p0.png"
    with pytest.raises(ConfigError, match="give either --reward or --votes"):
        made(source, votes=votes_file(tmp_path, said("0", 0, 1, "a")), rewards={"r": 1.0})
    with pytest.raises(ConfigError, match="--votes: the shares of votes are the preferences"):
        made(source, votes=votes_file(tmp_path, said("0", 0, 1, "a")), smooth=(0.0, 1.0))
    with pytest.raises(DataError, match=f"--votes: .*gone.jsonl: no such file; diffalign annotate {tmp_path} makes it"):
        made(source, votes=tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=f"--votes: .*: no votes in it yet; diffalign annotate {tmp_path} takes them"):
        made(source, votes=votes_file(tmp_path))
