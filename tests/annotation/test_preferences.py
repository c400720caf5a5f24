"""What a training round asks: whether votes are missing, and who won how often."""

from __future__ import annotations

from diffalign.annotation import Plan, Vote, VoteFile, pending, preferences, read_comparisons, write_plan


def say(folder, comparison, choice, rater="anna"):
    with VoteFile(folder) as votes:
        votes.add(
            Vote(
                comparison.id,
                comparison.prompt,
                comparison.a,
                comparison.b,
                choice,
                rater,
                "ab",
                1.0,
                "2026-01-01T12:00:00Z",
            )
        )


def test_a_round_fills_up(folder):
    first, second, third = read_comparisons(folder)
    assert pending(folder) == 3
    assert [each.probability for each in preferences(folder)] == [None, None, None]
    say(folder, first, "a")
    say(folder, first, "tie", "ben")
    say(folder, second, "skip")  # nobody has to wait for it
    assert pending(folder) == 1
    say(folder, third, "b")
    assert pending(folder) == 0
    assert [each.probability for each in preferences(folder)] == [0.75, None, 0.0]


def test_bad_is_no_preference_and_as_many_of_them_as_others_undo_these(folder):
    first, second, third = read_comparisons(folder)
    say(folder, first, "bad")
    say(folder, second, "bad")
    say(folder, second, "b", "ben")
    say(folder, third, "bad")
    say(folder, third, "b", "ben")
    say(folder, third, "b", "cem")
    assert [each.probability for each in preferences(folder)] == [None, None, 0.0]
    assert pending(folder) == 0


def test_they_name_their_pictures(folder):
    for each, comparison in zip(preferences(folder), read_comparisons(folder), strict=True):
        assert (each.a, each.b) == (comparison.a, comparison.b)
        assert each.record["prompt"] == comparison.prompt and each.record["file_name"] == each.a
        assert (folder / each.a).is_file() and (folder / each.b).is_file()


def test_the_folders_plan_counts(folder):
    write_plan(folder, Plan(seed=4))
    assert [each.a for each in preferences(folder)] == [each.a for each in read_comparisons(folder, Plan(seed=4))]


def test_votes_on_pictures_that_are_gone_do_not_count(folder):
    first = read_comparisons(folder)[0]
    say(folder, first, "a")
    lines = (folder / "metadata.jsonl").read_text().splitlines(keepends=True)
    (folder / "metadata.jsonl").write_text(
        "".join(line for line in lines if first.a not in line and first.b not in line)
    )
    assert pending(folder) == 2
    assert [each.probability for each in preferences(folder)] == [None, None]
