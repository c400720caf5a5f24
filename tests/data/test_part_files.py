"""Lines of several processes: none lost, none doubled, whatever is cut off."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diffalign.data import part_files
from diffalign.data.part_files import PartFiles
from diffalign.exceptions import ConfigError


def test_parts_of_several_processes_are_read_together(tmp_path):
    target = tmp_path / "metadata [1].jsonl"
    parts = [PartFiles(target, rank, 2) for rank in range(2)]
    parts[1].add([{"id": "b", "prompt": "кот\u2028✓"}])
    parts[0].add([{"id": "a"}, {"id": "c"}])
    assert [row["id"] for row in parts[0].read()] == ["a", "c", "b"]
    assert list(PartFiles(target, 0, 3).read()) == list(parts[1].read())  # also by another number of processes
    assert [part.own.name for part in parts] == [
        ".metadata [1].jsonl.part-0-of-2", ".metadata [1].jsonl.part-1-of-2",
    ]  # fmt: skip
    parts[0].remove()
    parts[1].remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 5, 9, 10])
def test_line_that_was_cut_off_is_left_out_and_not_grown_together_with_the_next(tmp_path, cut):
    part = PartFiles(tmp_path / "x.jsonl")
    part.add([{"id": "a"}])
    whole = part.own.read_bytes()
    part.own.write_bytes(whole + '{"id": "ч"}'.encode()[:cut])
    part.add([{"id": "c"}])
    assert [row["id"] for row in part.read()] == ["a", "c"]
    part.own.write_bytes(whole + b'{"id": "b"}')  # but the line's end
    part.add([{"id": "c"}])
    assert [row["id"] for row in part.read()] == ["a", "b", "c"]


def test_every_piece_of_work_is_one_process_s(tmp_path):
    for block in (1, 3):
        parts = [PartFiles(tmp_path, rank, 4) for rank in range(4)]
        owners = [[part.rank for part in parts if part.has(number, block)] for number in range(24)]
        assert owners == [[number // block % 4] for number in range(24)]


def test_rank_beyond_the_world_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rank must be from 0 to 1, got 2"):
        PartFiles(tmp_path, 2, 2)


def test_two_calls_do_not_write_one_file_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "_PATIENCE", 0.2)
    parts = PartFiles(tmp_path / "scores.jsonl")
    with parts.held():
        with pytest.raises(ConfigError, match=r"out: another call is writing .*scores\.jsonl"), parts.held():
            pass
        with PartFiles(parts.target, 1, 2).held():  # another process of one call
            pass
    with parts.held():
        pass
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_lets_go(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from diffalign.data.part_files import PartFiles\n"
        f"with PartFiles(Path({str(tmp_path / 'x.jsonl')!r})).held(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with PartFiles(tmp_path / "x.jsonl").held():
        pass
    assert not list(tmp_path.iterdir())
