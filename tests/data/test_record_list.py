"""The list of records on disk: when it stands for the source, when that is read anew, and what is mended on the spot."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.data import (
    CachedLatents,
    PictureEncoding,
    ReadCounts,
    Record,
    RecordList,
    Source,
    TensorCache,
    encode_records,
    file_state,
    latents_of,
    open_list,
    read_records,
    record_list,
)
from diffalign.data.cache import DamagedShardError
from diffalign.exceptions import DataError
from tests.data.pictures import groups_folder, pairs_folder, picture_file, write_rows
from tests.data.test_groups import CountingEncoder


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files that tests have just written count as old ones."""
    monkeypatch.setattr(file_state, "SETTLED", 0)


class Room:
    """A source, its cache and its list."""

    def __init__(self, folder: Path, kind: Any = "pairs", on_bad: Any = "error", **encoding: Any) -> None:
        self.home = folder.parent
        self.folder = folder
        self.encoder = CountingEncoder()
        self.encoding = PictureEncoding(**{"fingerprint": "f", "posterior": self.encoder, "resolution": 8} | encoding)
        self.kind, self.on_bad = kind, on_bad
        self.path = self.home / "records" / "list.arrow"

    def read(self, counts: ReadCounts | None = None) -> Iterable[Record]:
        return read_records(self.folder, self.kind, on_bad=self.on_bad, counts=counts)

    def write(self) -> tuple[RecordList, CachedLatents]:
        state, counts = Source(self.folder).state(), ReadCounts()
        self.counts = counts
        return encode_records(
            self.read(counts),
            TensorCache(self.home / "cache"),
            self.encoding,
            seed=0,
            on_bad=self.on_bad,
            counts=counts,
            path=self.path,
            source=state,
            read_again=self.read,
        )

    def open(self) -> RecordList | None:
        return open_list(self.path, Source(self.folder).state())

    def latents(self, records: RecordList) -> CachedLatents:
        return latents_of(records, TensorCache(self.home / "cache"), self.encoding, seed=0, read_again=self.read)


@pytest.fixture
def room(tmp_path) -> Room:
    return Room(pairs_folder(tmp_path / "data", 5))


# ---------------------------------------------------------------- what is kept


def test_the_list_says_what_the_records_say(tmp_path):
    room = Room(groups_folder(tmp_path / "data", [[3, 1, 2], [None, 5, 5], [7, 8, 9]]), "groups", flip=True)
    written, latents = room.write()
    opened = room.open()
    assert opened is not None
    again = room.latents(opened)
    assert list(opened) == list(written) == [(f"g{number}", f"prompt {number}") for number in range(3)]
    assert opened[1] == opened[-2] == ("g1", "prompt 1") and opened[1:] == [opened[1], opened[2]]
    with pytest.raises(IndexError):
        opened[3]
    for number in range(3):
        for epoch in range(4):
            assert torch.equal(latents.of(number, epoch, f"g{number}"), again.of(number, epoch, f"g{number}"))
        torch.testing.assert_close(latents.reward(number), again.reward(number), equal_nan=True)
    assert again.reward(1).tolist()[:2] == [5, 5] and again.reward(1).isnan().tolist() == [False, False, True]
    assert again.content_hash == latents.content_hash
    (said,) = again.said()
    torch.testing.assert_close(said.rewards, torch.stack([again.reward(n) for n in range(3)]), equal_nan=True)
    assert (said.first, said.labels, said.preferences.tolist()) == (0, None, [1, 1, 1])


def test_what_many_records_say_at_once(tmp_path, monkeypatch):
    """Chunk by chunk, with records of different length and labels."""
    monkeypatch.setattr(record_list, "CHUNK", 2)
    room = Room(groups_folder(tmp_path / "data", [[3], [2, None], [7, 8, 9]]), "groups")
    counts = ReadCounts()
    rows = read_records(room.folder, "groups", members=1, counts=counts)
    cache = TensorCache(tmp_path / "cache")
    _, latents = encode_records(rows, cache, room.encoding, seed=0, on_bad="error", counts=counts)
    first, second = latents.said()
    assert (first.first, second.first) == (0, 2)
    torch.testing.assert_close(first.rewards, torch.tensor([[3.0], [2.0]]))
    assert second.rewards.tolist() == [[9, 8, 7]]
    rows = [{"id": f"l{n}", "prompt": "p", "item": f"{n}-0.png", "label": ("good", "bad")[n % 2]} for n in range(3)]
    write_rows(room.folder / "metadata.jsonl", rows)
    labelled = Room(room.folder, "labelled").write()[1]
    assert [said.labels.tolist() for said in labelled.said()] == [[1, -1], [1]]


def test_a_list_that_is_not_kept_leaves_no_file(tmp_path):
    room = Room(pairs_folder(tmp_path / "data"))
    cache = TensorCache(tmp_path / "cache")
    kept, latents = encode_records(room.read(), cache, room.encoding, seed=0, on_bad="error", counts=ReadCounts())
    assert len(kept) == 3 and latents.of(2, 0, "r2").shape == (2, 3, 8, 8)
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".json", ".safetensors"]
    with pytest.raises(DataError):
        encode_records([], cache, room.encoding, seed=0, on_bad="error", counts=ReadCounts())
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_drafts_of_killed_writers_go_after_a_day(room):
    home = room.path.parent
    home.mkdir()
    old, young = (home / f".list.arrow.{number}-00.partial" for number in (1, 2))
    for draft in (old, young):
        draft.write_bytes(b"torn")
    os.utime(old, (0, 0))
    room.write()
    assert sorted(path.name for path in home.iterdir()) == [young.name, "list.arrow", "list.json"]


# ---------------------------------------------------------------- when it is believed


def test_nothing_is_read_again_while_nothing_has_changed(room, monkeypatch):
    room.write()
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} is read"))
    opened = room.open()
    assert opened is not None and len(opened) == 5
    assert next(room.latents(opened).absent(), None) is None


def _replace_picture(room: Room) -> None:
    (room.folder / "3b.png").write_bytes(picture_file(77))


def _replace_picture_unseen(room: Room) -> None:
    """The same size and time of change, as `rsync -t` or a restored backup would have it."""
    path = room.folder / "3b.png"
    seen, content = path.stat(), bytearray(path.read_bytes())
    content[-13] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def _swap_pictures(room: Room) -> None:
    """Each file is as it was, under the other's name."""
    (room.folder / "3a.png").rename(room.folder / "x.png")
    (room.folder / "3b.png").rename(room.folder / "3a.png")
    (room.folder / "x.png").rename(room.folder / "3b.png")


def _change_row(room: Room) -> None:
    listing = room.folder / "metadata.jsonl"
    listing.write_text(listing.read_text().replace("prompt 3", "prompt X"))


def _damage_list(room: Room) -> None:
    content = bytearray(room.path.read_bytes())
    content[len(content) // 2] ^= 1
    room.path.write_bytes(bytes(content))


def _cut_list(room: Room) -> None:
    room.path.write_bytes(room.path.read_bytes()[:-9])


def _spoil_note(room: Room) -> None:
    room.path.with_suffix(".json").write_text("{}")


def _other_format(room: Room) -> None:
    note = room.path.with_suffix(".json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"format": 0}))


def _remove_picture(room: Room) -> None:
    (room.folder / "0a.png").unlink()


CHANGES = [
    _replace_picture,
    _replace_picture_unseen,
    _swap_pictures,
    _change_row,
    _damage_list,
    _cut_list,
    _spoil_note,
    _other_format,
    _remove_picture,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_change_is_seen(room, change):
    room.write()
    assert room.open() is not None
    change(room)
    assert room.open() is None


def test_a_changed_picture_s_latents_are_new_on_the_second_run(room):
    _, before = room.write()
    _replace_picture(room)
    assert room.open() is None
    room.encoder.seen = 0
    _, after = room.write()
    assert room.encoder.seen == 1
    assert not torch.equal(before.of(3, 0, "r3"), after.of(3, 0, "r3"))
    assert after.of(3, 0, "r3")[1, 2, 0, 0].item() == pytest.approx(77 / 255, abs=1e-4)
    assert after.content_hash != before.content_hash


def test_files_that_were_just_changed_are_not_relied_on(room, monkeypatch):
    """A change within a clock's tick of the reading would not show."""
    monkeypatch.setattr(file_state, "SETTLED", 60 * 10**9)
    room.write()
    assert Source(room.folder).state() is None
    assert room.open() is None
    monkeypatch.setattr(file_state, "SETTLED", 0)
    room.write()  # the source has settled, the pictures had not
    monkeypatch.setattr(file_state, "SETTLED", 60 * 10**9)
    for path in room.folder.iterdir():
        assert not file_state.FileState.of(path).settled


@pytest.mark.parametrize("broken", [False, True], ids=["kept", "left out"])
def test_a_picture_that_was_just_changed_is_read_again_though_its_list_is_old(room, monkeypatch, broken):
    """What counts is how long ago it was changed when it was read, not when the list was written, much later."""
    if broken:
        (room.folder / "1b.png").write_bytes(b"text")
        room.on_bad = "skip"
    read = room.read

    def read_young(counts: ReadCounts | None = None) -> Iterable[Record]:
        monkeypatch.setattr(file_state, "SETTLED", 60 * 10**9)
        yield from read(counts)
        monkeypatch.setattr(file_state, "SETTLED", 0)  # as if a minute had passed

    monkeypatch.setattr(room, "read", read_young)
    room.write()
    assert room.open() is None
    monkeypatch.setattr(room, "read", read)
    room.write()
    assert room.open() is not None


def test_a_state_that_cannot_be_relied_on_is_never_still_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(file_state, "SETTLED", 60 * 10**9)
    (tmp_path / "new").write_bytes(b"")
    young = file_state.FileState.of(tmp_path / "new")
    assert not young.settled and not young.is_still(young.packed)
    absent = file_state.FileState.of(tmp_path / "absent")
    assert absent.settled and absent.is_still(absent.packed)


@pytest.mark.parametrize("mended", [False, True])
def test_records_that_were_left_out_come_back_when_their_picture_does(tmp_path, mended):
    room = Room(pairs_folder(tmp_path / "data"), on_bad="skip")
    (room.folder / "1b.png").unlink()
    (room.folder / "2b.png").write_bytes(b"text")
    kept, _ = room.write()
    assert [name for name, _ in kept] == ["r0"]
    opened = room.open()
    assert opened is not None
    counts = ReadCounts(**opened.about["counts"])
    assert (counts.kept, counts.bad, len(counts.reasons)) == (1, 2, 2)
    if mended:
        (room.folder / "1b.png").write_bytes(picture_file(3))
        assert room.open() is None
        assert len(room.write()[0]) == 2


def test_a_list_without_records_whose_latents_were_not_finite_is_not_kept(tmp_path):
    """Another driver, or another precision inside, may give finite ones."""
    room = Room(pairs_folder(tmp_path / "data"), on_bad="skip", posterior=CountingEncoder(broken_shade=101))
    kept, _ = room.write()
    assert [name for name, _ in kept] == ["r0", "r2"]
    assert room.open() is None


# ---------------------------------------------------------------- damage that is found in training


def flip_a_byte(cache: Path) -> None:
    for shard in cache.glob("*.safetensors"):
        content = bytearray(shard.read_bytes())
        content[-5] ^= 0xFF
        shard.unlink()
        shard.write_bytes(bytes(content))


def test_a_damaged_shard_is_made_again_on_the_spot(room, caplog):
    _, latents = room.write()
    expected = [latents.of(number, 0, f"r{number}") for number in range(5)]
    flip_a_byte(room.home / "cache")
    records = room.open()
    assert records is not None
    seen = room.latents(records)
    room.encoder.seen = 0
    assert all(torch.equal(seen.of(number, 0, f"r{number}"), expected[number]) for number in (3, 0, 1, 2, 4))
    assert room.encoder.seen == 10
    assert "encoding the pictures of 5 records again" in caplog.text


def test_only_the_lost_entries_are_made_again(room, monkeypatch):
    monkeypatch.setattr("diffalign.data.encoder._SHARD", 2)
    room.encoding = replace(room.encoding, batch=2)
    room.write()
    records = room.open()
    assert records is not None
    shards = sorted((room.home / "cache").glob("*.safetensors"))
    assert len(shards) == 5
    shards[2].write_bytes(shards[2].read_bytes()[:-1] + b"\x01")
    seen = room.latents(records)
    room.encoder.seen = 0
    for number in range(5):
        seen.of(number, 0, f"r{number}")
    assert room.encoder.seen == 2


def test_a_picture_that_changed_since_does_not_take_the_lost_one_s_place(room):
    room.write()
    records = room.open()
    assert records is not None
    flip_a_byte(room.home / "cache")
    _replace_picture(room)
    seen = room.latents(records)
    with pytest.raises(DamagedShardError):
        seen.of(3, 0, "r3")
    assert seen.of(2, 0, "r2").shape == (2, 3, 8, 8)
