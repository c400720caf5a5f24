"""Sizes of pictures: which buckets there are, how a picture comes to one, and the order of training by buckets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.data import (
    GroupData,
    PictureEncoding,
    ReadCounts,
    TensorCache,
    Texts,
    TrainingOrder,
    bucket_sizes,
    encode_records,
    place_of,
    read_records,
)
from diffalign.data.buckets import nearest_bucket
from diffalign.data.encoder import Encoder
from diffalign.data.records import OpenedPicture, open_picture, picture_size
from diffalign.exceptions import DataError
from tests.data.pictures import encode, picture_file, write_rows

SDXL = bucket_sizes(1024, step=64, smallest=512, largest=2048)


# ---------------------------------------------------------------- sizes


def test_buckets_of_sdxl_are_kohya_s():
    """make_bucket_resolutions((1024, 1024), 512, 2048, 64) of kohya's sd-scripts, as (height, width)."""
    assert SDXL[0] == (1024, 1024)
    assert {(832, 1216), (1216, 832), (896, 1152), (768, 1344), (640, 1536), (512, 2048)} <= set(SDXL)
    assert all(height * width <= 1024**2 and height % 64 == width % 64 == 0 for height, width in SDXL)
    assert all(512 <= side <= 2048 for size in SDXL for side in size)
    assert {(width, height) for height, width in SDXL} == set(SDXL) and len(set(SDXL)) == len(SDXL)
    assert min(height * width for height, width in SDXL) > 0.85 * 1024**2


def test_an_odd_resolution_keeps_its_square():
    assert bucket_sizes(1000, step=64, smallest=512, largest=1536)[0] == (1000, 1000)


@pytest.mark.parametrize(
    ("pictures", "size"),
    [
        ([(1024, 1024)], (1024, 1024)),
        ([(600, 800)], (896, 1152)),  # 4:3
        ([(800, 600)], (1152, 896)),
        ([(1080, 1920)], (768, 1344)),  # 16:9
        ([(100, 5000)], (512, 2048)),  # wider than any
        ([(500, 1000), (1000, 500)], (1024, 1024)),  # the mean of 2:1 and 1:2
        ([(1000, 1000), (500, 1000)], (832, 1216)),
    ],
)
def test_a_group_takes_the_nearest(pictures, size):
    assert SDXL[nearest_bucket(pictures, SDXL)] == size


# ---------------------------------------------------------------- pictures


def test_size_of_a_picture_from_its_head():
    assert picture_size(picture_file(size=(30, 20)), "x") == (20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways
    assert picture_size(encode(Image.new("RGB", (30, 20)), "JPEG", exif=exif), "x") == (30, 20)
    with pytest.raises(DataError, match="record 'x': not a readable picture"):
        picture_size(b"text", "x")


@pytest.mark.parametrize(
    ("size", "into", "resized", "corner"),
    [
        ((40, 20), (8, 16), (8, 16), (0, 0)),  # width, height of the picture; height, width of the bucket
        ((40, 20), (16, 8), (16, 32), (0, 12)),
        ((20, 40), (8, 16), (32, 16), (12, 0)),
        ((21, 8), (8, 16), (8, 21), (0, 2)),
        ((10, 10), (8, 16), (16, 16), (4, 0)),
    ],
)
def test_a_picture_covers_its_bucket_and_is_cut_in_the_middle(size, into, resized, corner):
    seen = open_picture(picture_file(size=size), "x", into)
    assert seen.pixels.shape == (3, *into)
    assert (seen.resized, seen.corner, seen.box) == (resized, corner, (0, 0, *into))
    assert seen.crop.tolist() == [size[1], size[0], *corner, *into]
    mirrored = open_picture(mirror(picture_file(size=size)), "x", into)
    assert seen.mirrored().corner[1] in (mirrored.corner[1], mirrored.corner[1] + resized[1] % 2)
    if (resized[1] - into[1]) % 2 == 0:
        torch.testing.assert_close(seen.mirrored().pixels, mirrored.pixels, atol=2 / 255, rtol=0)


def mirror(content: bytes) -> bytes:
    import io

    return encode(Image.open(io.BytesIO(content)).transpose(Image.Transpose.FLIP_LEFT_RIGHT))


@pytest.mark.parametrize(
    ("size", "into", "box"),
    [
        ((40, 20), (16, 16), (4, 0, 8, 16)),  # top, left, height, width
        ((20, 40), (16, 16), (0, 4, 16, 8)),
        ((30, 20), (16, 16), (0, 0, 12, 16)),  # 10.7 rows become 12, the rest of 4 is below
        ((16, 16), (16, 16), (0, 0, 16, 16)),
        ((400, 2), (16, 16), (4, 0, 4, 16)),  # never less than a latent
        ((10, 10), (8, 16), (0, 4, 8, 8)),
    ],
)
def test_a_picture_that_is_padded_lies_on_whole_latents(size, into, box):
    seen = open_picture(picture_file(255, size), "x", into, fit="pad", cell=4)
    top, left, height, width = box
    assert (seen.box, seen.corner, seen.resized) == (box, (0, 0), (height, width))
    assert seen.crop.tolist() == [size[1], size[0], 0, 0, *into]
    blue = seen.pixels[2] * 255
    inside = torch.zeros(into, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    assert bool((blue[inside].round() == 255).all()) and bool((blue[~inside].round() == 128).all())
    turned = seen.mirrored()
    assert turned.box == (top, into[1] - left - width, height, width) and turned.corner == (0, 0)
    assert torch.equal(turned.pixels, seen.pixels.flip(-1))


# ---------------------------------------------------------------- the order of training


def epoch_of(order: TrainingOrder, epoch: int) -> list[int]:
    length = order.epoch_length
    places = [order.place(epoch * length + each) for each in range(length)]
    assert {each for each, _ in places} == {epoch}
    return [number for _, number in places]


BUCKETS = np.array([0] * 11 + [1] * 6 + [2] * 2 + [3] * 3)[np.random.default_rng(0).permutation(22)]


def test_every_forward_has_one_bucket_and_every_record_comes_once_at_most():
    order = TrainingOrder(22, 3, BUCKETS, 3)
    assert order.epoch_length == 9 + 6 + 0 + 3
    for epoch in range(6):
        seen = epoch_of(order, epoch)
        assert len(set(seen)) == len(seen) == 18
        batches = [seen[start : start + 3] for start in range(0, 18, 3)]
        assert all(len(set(BUCKETS[batch])) == 1 for batch in batches)
        lost = Counter(BUCKETS[sorted(set(range(22)) - set(seen))].tolist())
        assert lost == {0: 2, 2: 2}  # at most groups - 1 of each


def test_other_records_are_left_out_each_epoch_and_batches_of_buckets_are_mixed():
    order = TrainingOrder(22, 3, BUCKETS, 3)
    epochs = [epoch_of(order, epoch) for epoch in range(12)]
    left_out = {frozenset(set(np.flatnonzero(BUCKETS == 0)) - set(seen)) for seen in epochs}
    assert len(left_out) > 6
    assert set(np.flatnonzero(BUCKETS == 0)) == {number for seen in epochs for number in seen if BUCKETS[number] == 0}
    assert len({tuple(BUCKETS[seen[::3]]) for seen in epochs}) > 6
    assert len({tuple(epoch_of(TrainingOrder(22, seed, BUCKETS, 3), 0)) for seed in range(4)}) == 4


def test_a_place_needs_no_history():
    walked = [TrainingOrder(22, 1, BUCKETS, 2).place(position) for position in range(80)]
    order = TrainingOrder(22, 1, BUCKETS, 2)
    assert [order.place(position) for position in reversed(range(80))] == walked[::-1]


def test_without_buckets_the_order_is_as_ever():
    order = TrainingOrder(7, 4)
    assert [order.place(position) for position in range(30)] == [place_of(position, 7, 4) for position in range(30)]
    assert order.epoch_length == 7


def test_processes_share_a_step_as_one_process_s_forwards_would():
    """Positions are counted alike: (step, forward, process), `groups` of each."""
    order, groups = TrainingOrder(22, 0, BUCKETS, 2), 2

    def places(step: int, accumulation: int, processes: int) -> list[tuple[int, int]]:
        per_step = groups * accumulation * processes
        firsts = [
            step * per_step + (number * processes + rank) * groups
            for number in range(accumulation)
            for rank in range(processes)
        ]
        return [order.place(first + each) for first in firsts for each in range(groups)]

    for step in range(12):
        assert places(step, 2, 1) == places(step, 1, 2)


# ---------------------------------------------------------------- from pictures to batches

SHAPES = {
    "r0": [(40, 20), (36, 20)],
    "r1": [(20, 40), (20, 20)],
    "r2": [(20, 20), (20, 21)],
    "r3": [(41, 20), (40, 20)],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    home = tmp_path / "data"
    home.mkdir()
    rows = []
    for shade, (name, sizes) in enumerate(SHAPES.items()):
        for letter, size in zip("ab", sizes, strict=True):
            (home / f"{name}{letter}.png").write_bytes(picture_file(10 * shade + ord(letter) - 97, size))
        rows.append({"id": name, "prompt": "p", "chosen": f"{name}a.png", "rejected": f"{name}b.png"})
    write_rows(home / "metadata.jsonl", rows)
    return home


def data_of(folder: Path, cache: Path, *, flip: bool = False, batch: int = 8, fit="crop", **options) -> GroupData:
    def posterior(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Latents of 2 x 2 pixels."""
        mean = torch.nn.functional.avg_pool2d(pictures, 2)
        return {"mean": mean, "log_variance": torch.full_like(mean, -60.0)}

    sizes = bucket_sizes(16, step=4, smallest=8, largest=32)
    encoding = PictureEncoding("f", posterior, 16, flip=flip, batch=batch, sizes=sizes, fit=fit, cell=2)
    kept, latents = encode_records(
        read_records(folder), TensorCache(cache), encoding, seed=0, on_bad="error", counts=ReadCounts()
    )
    texts = Texts(TensorCache(cache / "texts"), "t")
    texts.fill(["p"], lambda chunk: {"states": torch.ones(len(chunk), 2)})
    return GroupData(kept, latents, texts, crop_leaf="time_ids", **options)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_groups_of_one_bucket_stack(folder, tmp_path, batch):
    data = data_of(folder, tmp_path / "cache", batch=batch)
    assert data.latents.buckets is not None
    buckets = data.latents.buckets.tolist()
    assert buckets[0] == buckets[3] and len({buckets[0], buckets[1], buckets[2]}) == 3
    wide = data.batch([(0, 0), (0, 3)])
    assert wide.x0.shape == (2, 2, 3, 6, 10) and wide.mask is None  # 12 x 20 pixels
    assert data.batch([(0, 1)]).x0.shape == (1, 2, 3, 10, 6)  # 20 x 12, between 1:2 and the square
    assert data.batch([(0, 2)]).x0.shape == (1, 2, 3, 8, 8)
    for row, sizes in zip(wide.condition.leaves["time_ids"], (SHAPES["r0"], SHAPES["r3"]), strict=True):
        for ids, (width, height) in zip(row.tolist(), sizes, strict=True):
            assert ids == [height, width, 0, (round(12 / height * width) - 20) // 2, 12, 20]


def test_what_waits_is_bounded_over_all_sizes(folder, tmp_path, monkeypatch):
    """However many pictures a batch may have: the fullest bucket does not wait for its own."""
    waiting, ready = [], []
    add = Encoder.add

    def seen_add(self: Encoder, pictures: dict[str, OpenedPicture]) -> None:
        add(self, pictures)
        waiting.append(sum(each.pixels.nbytes for some in self._waiting.values() for each in some.values()))
        ready.append(sum(map(len, self._ready.values())))

    monkeypatch.setattr(Encoder, "add", seen_add)
    expected = data_of(folder, tmp_path / "unbounded", batch=100)
    picture = 3 * 16 * 16 * 4
    assert waiting[-1] > 7 * picture
    waiting.clear()
    monkeypatch.setattr("diffalign.data.encoder._WAITING_BYTES", 5 * picture)
    data_of(folder, tmp_path / "some", batch=100)
    assert 3 * picture < max(waiting) <= 5 * picture and max(ready) > 2
    ready.clear()
    monkeypatch.setattr("diffalign.data.encoder._READY_BYTES", picture // 2)  # of latents of a quarter: with variance
    data = data_of(folder, tmp_path / "bounded", batch=100)
    assert max(ready) <= 2
    assert all(torch.equal(data.batch([(0, n)]).x0, expected.batch([(0, n)]).x0) for n in range(4))


def test_entries_of_another_way_of_decoding_are_never_served(monkeypatch):
    encoding = PictureEncoding("f", lambda x: {}, 16, flip=True)
    before = {key for fit in ("crop", "pad") for key in replace(encoding, fit=fit).keys([b"x"])[0]}
    monkeypatch.setattr("diffalign.data.encoder._FORMAT", 99)
    after = {key for fit in ("crop", "pad") for key in replace(encoding, fit=fit).keys([b"x"])[0]}
    assert len(before) == len(after) == 4 and not before & after


def test_padding_is_masked_for_each_member_and_mirrored_with_it(folder, tmp_path):
    data = data_of(folder, tmp_path / "cache", fit="pad", flip=True)
    seen = set()
    for epoch in range(12):
        batch = data.batch([(epoch, 1)])
        assert batch.mask is not None and batch.mask.shape == (1, 2, 1, 10, 6)
        grey = (batch.x0 * 255).round().eq(128).all(2, keepdim=True)
        assert torch.equal(grey, batch.mask == 0)
        assert 0 < batch.mask[0, 0].sum() < 60
        seen.add(tuple(batch.mask[0, 0, 0, 5].tolist()))
    assert len(seen) == 2  # the rest is uneven, so that the mirror image's is another


def test_what_a_bucket_s_entries_depend_on():
    def keys(**options) -> set[str]:
        encoding = PictureEncoding("f", lambda x: {}, 16, **options)
        return {encoding.keys([b"x"], bucket)[0][0] for bucket in range(len(encoding.sizes or [0]))}

    plain = keys()
    buckets = keys(sizes=((16, 16), (8, 32), (32, 8)))
    padded = keys(sizes=((16, 16), (8, 32), (32, 8)), fit="pad")
    assert plain < buckets and len(buckets) == 3  # the square of a bucket is the square of before
    assert not buckets & padded and len(padded) == 3
    assert not padded & keys(sizes=((16, 16), (8, 32), (32, 8)), fit="pad", cell=4)
