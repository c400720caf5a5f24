"""The cache under several processes at once, one of them killed; and what is left of it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.data import TensorCache, cache
from diffalign.data.cache import DamagedShardError

KEYS = 300
WRITER = """
import sys, torch
from pathlib import Path
from diffalign.data import TensorCache, content_key
home, rank, keys = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = TensorCache(home)
print("ready", flush=True)
sys.stdin.readline()
start = rank * keys // 8  # overlapping ranges
for number in [*range(start, keys), *range(start)]:
    name = content_key(str(number))
    if name in cache and rank % 2:
        continue
    cache.add([name], {"x": torch.full((1, 20_000), float(number))})
"""


def name_of(number: int) -> str:
    return cache.content_key(str(number))


def test_four_writers_one_killed(tmp_path):
    """All that is listed can be read and is what its key says; no draft counts, and the killed one's is cleared away."""
    home = tmp_path / "cache"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(home), str(rank), str(KEYS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while not (home.is_dir() and len(list(home.glob("*.json"))) > 20):
        time.sleep(0.005)
    os.kill(writers[2].pid, signal.SIGKILL)
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, -signal.SIGKILL, 0]
    (home / ".x.safetensors.1-00.partial").write_bytes(b"torn")  # as it would be left a day ago
    os.utime(home / ".x.safetensors.1-00.partial", (0, 0))
    seen = TensorCache(home)
    assert len(seen) == KEYS
    for number in range(KEYS):
        assert torch.equal(seen.get(name_of(number))["x"], torch.full((20_000,), float(number)))
    assert sorted(path.stem for path in home.glob("*.json")) == sorted(path.stem for path in home.glob("*.safetensors"))
    assert not [draft for draft in home.glob(".*.partial") if draft.name.startswith(".x.")]
    for writer in writers:
        writer.stdout.close()
        writer.stdin.close()


def filled(home: Path, shards: int, rows: int = 4) -> TensorCache:
    seen = TensorCache(home)
    for shard in range(shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        seen.add([name_of(number) for number in numbers], {"x": torch.tensor(numbers)})
    return seen


@pytest.fixture
def indexed(tmp_path, monkeypatch) -> Path:
    """A cache of 10 shards whose index is on disk."""
    monkeypatch.setattr(cache, "_LISTED", 0)
    filled(tmp_path / "cache", 10)
    assert len(TensorCache(tmp_path / "cache")) == 40
    assert (tmp_path / "cache" / "index").is_file()
    monkeypatch.undo()
    return tmp_path / "cache"


def values(seen: TensorCache, count: int = 40) -> list[int]:
    return [int(seen.get(name_of(number))["x"]) for number in range(count) if name_of(number) in seen]


def test_the_index_stands_for_the_lists(indexed, monkeypatch):
    read: list[Path] = []
    original = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *rest: read.append(self) or original(self, *rest))
    seen = TensorCache(indexed)
    assert (len(seen), read) == (40, [])
    assert values(seen) == list(range(40))


def test_an_index_that_is_behind_is_made_up_for(indexed):
    TensorCache(indexed).add([name_of(99)], {"x": torch.tensor([99])})
    assert int(TensorCache(indexed).get(name_of(99))["x"]) == 99
    assert values(TensorCache(indexed)) == list(range(40))


@pytest.mark.parametrize("place", [0, 20, 400, -1])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_index_is_not_believed(indexed, place, damage):
    content = bytearray((indexed / "index").read_bytes())
    content[place] ^= 0x01
    (indexed / "index").write_bytes(content if damage == "flipped" else content[:place])
    assert values(TensorCache(indexed)) == list(range(40))


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_an_index_with_a_shard_that_is_gone(indexed, how):
    victim = sorted(indexed.glob("*.safetensors"))[3]
    lost = [number for number in range(40) if _shard_of(indexed, number) == victim.stem]
    if how == "removed":
        victim.unlink()
        victim.with_suffix(".json").unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1])
    seen = TensorCache(indexed)
    assert len(lost) == 4
    assert values(seen) == [number for number in range(40) if number not in lost]
    seen.add([name_of(number) for number in lost], {"x": torch.tensor(lost)})
    assert values(TensorCache(indexed)) == list(range(40))


def _shard_of(home: Path, number: int) -> str:
    seen = TensorCache(home)
    place = seen._place(name_of(number))
    assert place is not None
    return seen._names[place[0]]


def test_the_index_after_a_shard_was_lost_and_made_again(indexed, monkeypatch):
    """Shards are numbered anew: every key must still find its own."""
    monkeypatch.setattr(cache, "_GROWN", 0)
    seen = TensorCache(indexed)
    victim = indexed / f"{_shard_of(indexed, 5)}.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedShardError):
        seen.get(name_of(5))
    seen.add([name_of(99)], {"x": torch.tensor([99])})  # writes the index
    assert values(seen) == [number for number in range(40) if number not in range(4, 8)]
    again = TensorCache(indexed)
    assert values(again) == values(seen)
    assert int(again.get(name_of(99))["x"]) == 99


def test_few_shards_are_mapped_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "OPEN", 5)
    seen = filled(tmp_path, 30)
    kept = [seen.get(name_of(number))["x"] for number in range(120)]
    mapped = Path("/proc/self/maps").read_text().count(str(tmp_path))
    assert 0 < mapped <= 5
    assert [int(value) for value in kept] == list(range(120))  # what was read stays, though its shard was closed


def test_a_reader_whose_shard_another_process_has_removed(tmp_path):
    """As long as it has the shard open it reads on; else the entry is missing, or read from where it was made again."""
    reader, other = filled(tmp_path, 2), TensorCache(tmp_path)
    assert int(reader.get(name_of(0))["x"]) == 0
    for path in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.json")]:
        path.unlink()
    assert int(reader.get(name_of(1))["x"]) == 1  # open still
    with pytest.raises(DamagedShardError, match="start again"):
        reader.get(name_of(4))
    assert name_of(4) not in reader
    other = TensorCache(tmp_path)
    other.add([name_of(5)], {"x": torch.tensor([5])})
    assert name_of(5) not in reader
    reader.refresh()
    assert int(reader.get(name_of(5))["x"]) == 5


def test_a_shard_that_was_damaged_and_made_again_by_another_process(tmp_path):
    """The same content has the same name: what is found damaged once is looked at again."""
    reader = filled(tmp_path, 1)
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(DamagedShardError):
        reader.get(name_of(0))
    filled(tmp_path, 1)
    reader.refresh()
    assert values(reader) == [0, 1, 2, 3]


@pytest.mark.parametrize("when", ["opened", "read"])
def test_a_slow_reader_leaves_alone_what_another_process_has_made_again(tmp_path, monkeypatch, when):
    """It saw the damage; by the time it removes the shard, that is a good one."""
    reader = filled(tmp_path, 1)
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(whole[:-1] + (b"" if when == "opened" else b"\x01"))
    loads, digest = cache.json.loads, hashlib.file_digest

    def mend() -> None:
        monkeypatch.undo()
        cache.write_whole(shard, [whole])

    def slow_digest(file: Any, name: str) -> Any:
        found = digest(file, name)
        mend()
        return found

    if when == "read":
        monkeypatch.setattr(hashlib, "file_digest", slow_digest)
        assert int(reader.get(name_of(0))["x"]) == 0
    else:

        def slow_loads(text: str) -> Any:
            found = loads(text)
            size = shard.stat().st_size
            mend()
            return found | {"bytes": size + 1 + len(whole)}  # as if the size had been seen before

        monkeypatch.setattr(cache.json, "loads", slow_loads)
        TensorCache(tmp_path)
    assert values(TensorCache(tmp_path)) == [0, 1, 2, 3]
