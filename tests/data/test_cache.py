"""The cache on disk: whole or made again, never stale, and safe for several writers."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffalign.data import TensorCache
from diffalign.data.cache import content_key
from diffalign.exceptions import DataError


def entries(*numbers: int) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(numbers).float()[:, None].expand(-1, 3), "y": torch.tensor(numbers)}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_round_trip_over_shards_and_a_new_process_s_view(tmp_path):
    cache = TensorCache(tmp_path / "deep" / "cache")
    cache.add(["a", "b"], entries(1, 2))
    cache.add(["c"], entries(3))
    for view in (cache, TensorCache(tmp_path / "deep" / "cache")):
        assert len(view) == 3
        assert "b" in view
        assert "d" not in view
        assert view.missing(["d", "a", "d", "e"]) == ["d", "e"]
        torch.testing.assert_close(view.get("b")["x"], torch.full((3,), 2.0))
        assert view.stack(["c", "a", "c"])["y"].tolist() == [3, 1, 3]


def test_opening_writes_nothing(tmp_path):
    assert len(TensorCache(tmp_path / "cache")) == 0
    assert not list(tmp_path.iterdir())


def test_keys_depend_on_every_part_and_its_border():
    keys = {content_key(*parts) for parts in (("a", "b"), ("ab",), ("a", "", "b"), (b"ab", ""), ("b", "a"))}
    assert len(keys) == 5


def test_flipped_byte_is_found_when_its_shard_is_first_read_and_loses_that_one_alone(tmp_path):
    cache = TensorCache(tmp_path)
    cache.add(["a"], entries(1))
    (victim,) = shards(tmp_path)
    cache.add(["b"], entries(2))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 0xFF  # of a tensor: only the hash can tell
    victim.write_bytes(bytes(content))
    seen = TensorCache(tmp_path)
    with pytest.raises(DataError, match=r"data.cache: .*safetensors is damaged and was removed; start again"):
        seen.get("a")
    assert seen.get("b")["y"] == 2
    for view in (seen, TensorCache(tmp_path)):
        assert "a" not in view
        assert "b" in view
    seen.add(["a"], entries(7))
    assert TensorCache(tmp_path).get("a")["y"] == 7


@pytest.mark.parametrize("part", ["hash", "key"])
def test_flipped_byte_in_a_list_of_keys_is_found_at_the_start(tmp_path, part, caplog):
    """A key that says another thing would serve one picture's latents for another's."""
    key, other = content_key("a"), content_key("b")
    cache = TensorCache(tmp_path)
    cache.add([key], entries(1))
    (listing,) = tmp_path.glob("*.json")
    cache.add([other], entries(2))
    text = listing.read_text()
    old = json.loads(text)["sha256"] if part == "hash" else key
    listing.write_text(text.replace(old, ("1" if old[0] == "0" else "0") + old[1:]))
    with caplog.at_level(logging.WARNING):
        seen = TensorCache(tmp_path)
    assert "damaged: its entries are made again" in caplog.text
    assert (len(seen), key in seen, other in seen) == (1, False, True)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_shard_that_is_not_whole_is_found_at_the_start(tmp_path, damage, caplog):
    cache = TensorCache(tmp_path)
    cache.add(["a"], entries(1))
    (victim,) = shards(tmp_path)
    cache.add(["b"], entries(2))
    content = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(content[:-1])
    with caplog.at_level(logging.WARNING):
        seen = TensorCache(tmp_path)
    assert ("a" in seen, "b" in seen) == (False, True)
    assert "damaged: its entries are made again" in caplog.text


def test_opening_reads_no_shard_and_using_one_hashes_it_once(tmp_path, monkeypatch):
    import hashlib

    cache, hashed = TensorCache(tmp_path), []
    for number in range(5):
        cache.add([f"k{number}"], entries(number))
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or original(file, name))
    seen = TensorCache(tmp_path)
    assert (len(seen), hashed) == (5, [])
    for _ in range(3):
        seen.stack(["k1", "k4"])
    assert len(hashed) == 2


def test_list_of_an_earlier_version_has_no_size(tmp_path):
    TensorCache(tmp_path).add(["a"], entries(1))
    listing = shards(tmp_path)[0].with_suffix(".json")
    content = json.loads(listing.read_text())
    del content["bytes"]
    listing.write_text(json.dumps(content))
    assert TensorCache(tmp_path).get("a")["y"] == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 3}', '{"keys": 5, "sha256": "x"}', "3"])
def test_nonsense_listing_is_passed_over(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    assert len(TensorCache(tmp_path)) == 0


def test_shard_without_listing_does_not_exist(tmp_path):
    """A writer that was killed between the two files."""
    TensorCache(tmp_path).add(["a"], entries(1))
    shards(tmp_path)[0].with_suffix(".json").unlink()
    cache = TensorCache(tmp_path)
    assert "a" not in cache
    cache.add(["a"], entries(1))
    assert TensorCache(tmp_path).get("a")["y"] == 1


def test_two_writers_do_not_disturb_each_other(tmp_path):
    first, second = TensorCache(tmp_path), TensorCache(tmp_path)
    first.add(["a", "b"], entries(1, 2))
    second.add(["b", "c"], entries(20, 3))
    assert first.get("b")["y"] == 2  # its own, still
    assert second.get("b")["y"] == 20
    third = TensorCache(tmp_path)
    assert len(third) == 3
    assert third.get("b")["y"] in (2, 20)


def test_two_processes_writing_the_same_at_once(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from diffalign.data import TensorCache\n"
        "cache = TensorCache(Path(sys.argv[1]))\n"
        "for number in range(40): cache.add([f'k{number}'], {'x': torch.full((1, 4), float(number))})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    for running in [subprocess.Popen(command) for _ in range(2)]:
        assert running.wait(timeout=120) == 0
    cache = TensorCache(tmp_path)
    assert [cache.get(f"k{number}")["x"][0].item() for number in range(40)] == list(range(40))
    assert not list(tmp_path.glob(".*"))  # no draft is left


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"data.cache: cannot write in .*file"):
        TensorCache(tmp_path / "file" / "cache").add(["a"], entries(1))


def test_listing_holds_the_shard_s_hash(tmp_path):
    import hashlib

    TensorCache(tmp_path).add(["a"], entries(1))
    (shard,) = shards(tmp_path)
    listing = json.loads(shard.with_suffix(".json").read_text())
    content = shard.read_bytes()
    assert listing == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "keys": ["a"]}
