"""The table of keys against a plain dict, in memory and on disk."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from diffalign.data import key_table
from diffalign.data.key_table import KEY, KeySet, KeyTable, packed


def key(number: int) -> bytes:
    """Every 16th ends with a zero, which numpy drops."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return digest[:19] + (b"\0" if number % 16 == 0 else digest[19:20])


def agrees(table: KeyTable, wanted: dict[int, int], beyond: int) -> bool:
    numbers = range(beyond)
    found = table.find_all(np.array([key(number) for number in numbers], KEY)).tolist()
    return found == [wanted.get(number, -1) for number in numbers] == [table.find(key(number)) for number in numbers]


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_as_a_dict_would(tmp_path, monkeypatch, block):
    monkeypatch.setattr(key_table, "_BLOCK", block)
    monkeypatch.setattr(key_table, "_FOLD", 20)
    random, table, wanted = np.random.default_rng(block), KeyTable(), {}
    for turn in range(25):
        numbers = random.integers(0, 400, random.integers(0, 40)).tolist()
        values = random.integers(0, 2**62, len(numbers)).tolist()
        table.put(map(key, numbers), values)
        wanted |= dict(zip(numbers, values, strict=True))
        if turn % 4 == 3:
            table.save(tmp_path / "table", {"turn": turn})
            assert table.unsaved == 0
        assert agrees(table, wanted, 450)
    table.save(tmp_path / "table", {"about": ["é"]})
    again = KeyTable()
    assert again.load(tmp_path / "table") and again.about == {"about": ["é"]}
    assert agrees(again, wanted, 450) and len(again) == len(wanted)
    assert sorted(again.values.tolist()) == sorted(wanted.values())
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_an_empty_table(tmp_path):
    table = KeyTable()
    assert table.find(key(1)) == -1 and len(table) == 0
    table.save(tmp_path / "table", {})
    assert KeyTable().load(tmp_path / "table")
    assert not KeyTable().load(tmp_path / "absent")


def test_every_byte_counts(tmp_path):
    table = KeyTable()
    table.put(map(key, range(50)), range(50))
    table.save(tmp_path / "table", {"shards": {"a": 1}})
    content = (tmp_path / "table").read_bytes()
    heading = content.index(b"}") + 1  # spaces come behind it
    for place in [*range(heading), *range(256, len(content))]:
        (tmp_path / "other").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not KeyTable().load(tmp_path / "other"), place
    for length in (0, 10, 255, 256, 700, len(content) - 1):
        (tmp_path / "other").write_bytes(content[:length])
        assert not KeyTable().load(tmp_path / "other")


def test_a_set_as_a_set_would():
    random, seen, wanted = np.random.default_rng(0), KeySet(), set()
    for number in random.integers(0, 15_000, 30_000).tolist():
        assert seen.add(key(number)) == (number not in wanted)
        wanted.add(number)


def test_keys_of_any_text():
    digits = "0123456789abcdef" * 2 + "01234567"
    assert packed(digits) == bytes.fromhex(digits)
    assert len({packed(text) for text in ("a", "b", digits, "x" * 40, digits.upper() + " ")}) == 5
    assert len(packed("a")) == len(packed("x" * 40)) == 20
