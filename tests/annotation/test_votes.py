"""The file of votes: what is kept, what replaces what, and what a crash or a full disk leaves."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading

import pytest

from diffalign.annotation import VoteFile, read_votes, tally
from diffalign.exceptions import DataError, SaveError
from tests.annotation.conftest import vote


def test_a_line_is_what_was_said(tmp_path):
    with VoteFile(tmp_path) as votes:
        votes.add(vote("c", "a", "ånna", "ba", 3.25))
    assert json.loads((tmp_path / "votes.jsonl").read_text()) == {
        "comparison": "c", "prompt": "p", "a": "0.png", "b": "1.png", "vote": "a", "rater": "ånna", "order": "ba",
        "seconds": 3.25, "time": "2026-01-01T12:00:00Z",
    }  # fmt: skip
    assert read_votes(tmp_path) == read_votes(tmp_path / "votes.jsonl") == [vote("c", "a", "ånna", "ba", 3.25)]


def test_no_file_is_no_vote(tmp_path):
    assert read_votes(tmp_path) == []


def test_the_last_vote_of_a_person_counts(tmp_path):
    votes = VoteFile(tmp_path)
    for said in (vote("c", "a"), vote("d", "tie"), vote("c", "a", "ben"), vote("c", "b")):
        votes.add(said)
    expected = [vote("d", "tie"), vote("c", "a", "ben"), vote("c", "b")]
    assert votes.votes == read_votes(tmp_path) == expected
    votes.close()
    with VoteFile(tmp_path) as again:
        assert again.votes == expected
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 4  # nothing is rewritten
    assert tally(expected) == {
        "d": {"a": 0, "b": 0, "tie": 1, "bad": 0, "skip": 0},
        "c": {"a": 1, "b": 1, "tie": 0, "bad": 0, "skip": 0},
    }


@pytest.mark.parametrize("left", [1, 30, -2])
def test_a_line_that_was_cut_off_is_ignored_and_removed(tmp_path, left):
    with VoteFile(tmp_path) as first:
        first.add(vote("c", "a"))
        whole = (tmp_path / "votes.jsonl").read_bytes()
        first.add(vote("d", "b"))
    second = (tmp_path / "votes.jsonl").read_bytes()[len(whole) :]
    (tmp_path / "votes.jsonl").write_bytes(whole + second[:left])
    assert read_votes(tmp_path) == [vote("c", "a")]
    with VoteFile(tmp_path) as again:
        assert (tmp_path / "votes.jsonl").read_bytes() == whole
        again.add(vote("d", "b"))
    assert read_votes(tmp_path) == [vote("c", "a"), vote("d", "b")]


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    with VoteFile(tmp_path) as first:
        first.add(vote("c", "a"))
    (tmp_path / "votes.jsonl").write_bytes((tmp_path / "votes.jsonl").read_bytes()[:-1])
    assert read_votes(tmp_path) == [vote("c", "a")]
    with VoteFile(tmp_path) as again:
        again.add(vote("d", "b"))
    assert read_votes(tmp_path) == [vote("c", "a"), vote("d", "b")]


@pytest.mark.parametrize("line", ['{"comparison": "c"}', "nonsense", '{"vote": "maybe"}', "[" * 30_000])
def test_a_line_that_is_no_vote_is_named(tmp_path, line):
    with VoteFile(tmp_path) as sound:
        sound.add(vote("c", "a"))
    path = tmp_path / "votes.jsonl"
    path.write_text(f"{line}\n" + path.read_text())
    for read in (read_votes, VoteFile):
        with pytest.raises(DataError, match="line 1: not a vote, got "):
            read(tmp_path)


def test_two_writers(tmp_path):
    first = VoteFile(tmp_path, "http://127.0.0.1:1234/")
    with pytest.raises(DataError, match=r"is open in another diffalign annotate \(http://127.0.0.1:1234/\): open that"):
        VoteFile(tmp_path)
    first.close()
    with pytest.raises(SaveError, match="the vote cannot be written"):
        first.add(vote("c", "a"))
    VoteFile(tmp_path).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from diffalign.annotation import VoteFile; "
        "votes = VoteFile(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    with pytest.raises(DataError, match="another"):
        VoteFile(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    VoteFile(tmp_path).close()


def test_a_full_disk_leaves_whole_lines(tmp_path):
    votes = VoteFile(tmp_path)
    votes.add(vote("c", "a"))
    size = (tmp_path / "votes.jsonl").stat().st_size
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(SaveError, match=r"votes.jsonl: the vote cannot be written: "):
            votes.add(vote("d", "b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "votes.jsonl").stat().st_size == size
    assert votes.votes == read_votes(tmp_path) == [vote("c", "a")]
    votes.add(vote("d", "b"))
    assert read_votes(tmp_path) == [vote("c", "a"), vote("d", "b")]
    votes.close()


def test_many_people_at_once(tmp_path):
    votes = VoteFile(tmp_path)

    def judge(rater: str) -> None:
        for number in range(25):
            votes.add(vote(str(number), "a", rater))

    threads = [threading.Thread(target=judge, args=(f"rater {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    votes.close()
    assert len(read_votes(tmp_path)) == 200
