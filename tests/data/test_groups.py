"""From records to batches: what is encoded when, what is drawn, and what is refused."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffalign.data import (
    CachedLatents,
    GroupData,
    PictureEncoding,
    ReadCounts,
    RecordList,
    Share,
    ShippedLatents,
    TensorCache,
    Texts,
    encode_records,
    encode_share,
    read_records,
    save_latents,
)
from diffalign.exceptions import DataError
from tests.data.pictures import pairs_folder, picture_file, write_rows


class CountingEncoder:
    """Latents are the picture itself; counts the pictures it has seen."""

    def __init__(self, log_variance: float = -40.0, broken_shade: int | None = None) -> None:
        self.seen = 0
        self.batches: list[int] = []
        self._log_variance = log_variance
        self._broken = broken_shade

    def __call__(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += len(pictures)
        self.batches.append(len(pictures))
        mean = pictures.clone()
        if self._broken is not None:
            mean[(pictures[:, 2, 0, 0] * 255).round() == self._broken] = float("nan")
        return {"mean": mean, "log_variance": torch.full_like(pictures, self._log_variance)}


def build(
    folder: Path, cache: Path, encoder: CountingEncoder, **options: Any
) -> tuple[RecordList, CachedLatents, ReadCounts]:
    counts = options.pop("counts", ReadCounts())
    settings: dict[str, Any] = {"seed": 0, "on_bad": "error"} | {
        name: options.pop(name) for name in ("seed", "on_bad") if name in options
    }
    rows = read_records(folder, on_bad=settings["on_bad"], counts=counts)
    kept, latents = encode_records(rows, TensorCache(cache), how(encoder, **options), counts=counts, **settings)
    return kept, latents, counts


def how(encoder: CountingEncoder, **options: Any) -> PictureEncoding:
    return PictureEncoding(**{"fingerprint": "f", "posterior": encoder, "resolution": 8} | options)


# ---------------------------------------------------------------- when the encoder is asked


def test_second_build_encodes_nothing(tmp_path):
    folder, cache = pairs_folder(tmp_path / "data"), tmp_path / "cache"
    first, second = CountingEncoder(), CountingEncoder()
    kept, latents, _ = build(folder, cache, first)
    again, cached, _ = build(folder, cache, second)
    assert (first.seen, second.seen) == (6, 0)
    assert list(kept) == list(again) == [("r0", "prompt 0"), ("r1", "prompt 1"), ("r2", "prompt 2")]
    assert torch.equal(latents.of(1, 0, "r1"), cached.of(1, 0, "r1"))


def test_changed_picture_is_encoded_again_and_it_alone(tmp_path):
    folder, cache = pairs_folder(tmp_path / "data"), tmp_path / "cache"
    build(folder, cache, CountingEncoder())
    (folder / "1b.png").write_bytes(picture_file(200))
    encoder = CountingEncoder()
    _, latents, _ = build(folder, cache, encoder)
    assert encoder.seen == 1
    assert latents.of(1, 0, "r1")[1, 2, 0, 0].item() == pytest.approx(200 / 255, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "again"), [({"fingerprint": "g"}, 6), ({"resolution": 4}, 6), ({"flip": True}, 6), ({"seed": 1}, 0)]
)
def test_what_makes_entries_stale(tmp_path, change, again):
    folder, cache = pairs_folder(tmp_path / "data"), tmp_path / "cache"
    build(folder, cache, CountingEncoder())
    encoder = CountingEncoder()
    build(folder, cache, encoder, **change)
    assert encoder.seen == again  # with flip: the mirror images alone


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damaged_shard_is_made_again(tmp_path, damage):
    """Cut short or gone, it is found at the start; a flipped byte when it is first read, and mended at the next start."""
    folder, cache = pairs_folder(tmp_path / "data"), tmp_path / "cache"
    _, before, _ = build(folder, cache, CountingEncoder())
    expected = before.of(2, 0, "r2").clone()
    (shard,) = cache.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-5] ^= 0xFF
    shard.unlink()  # a new file: the old one is mapped
    if damage != "gone":
        shard.write_bytes(bytes(content[:-1] if damage == "cut" else content))
    if damage == "flipped":
        _, latents, _ = build(folder, cache, CountingEncoder())
        with pytest.raises(DataError, match=r"data.cache: .* is damaged and was removed; start again"):
            latents.of(2, 0, "r2")
    encoder = CountingEncoder()
    _, latents, _ = build(folder, cache, encoder)
    assert encoder.seen == 6
    assert torch.equal(latents.of(2, 0, "r2"), expected)


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_the_encoder_gets_as_many_pictures_as_was_asked(tmp_path, batch):
    """Whatever the batch: the same latents, in the same few files."""
    encoder, folder = CountingEncoder(), pairs_folder(tmp_path / "data", 4)
    _, latents, _ = build(folder, tmp_path / "cache", encoder, batch=batch, flip=True)
    assert sum(encoder.batches) == 16
    assert set(encoder.batches[:-1]) == {batch} and encoder.batches[-1] <= batch
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1
    _, twin, _ = build(folder, tmp_path / "other", CountingEncoder(), flip=True)
    assert torch.equal(latents.of(3, 0, "r3"), twin.of(3, 0, "r3"))


# ---------------------------------------------------------------- several processes


def encode_as(rank: int, world: int, folder: Path, cache: Path, encoder: CountingEncoder, **options: Any) -> list[str]:
    """One process's part; says when it waited for the others."""
    waited: list[str] = []
    on_bad = options.pop("on_bad", "error")
    share = Share(rank, world, lambda: waited.append("waited"))
    rows = read_records(folder, on_bad=on_bad)
    encode_share(rows, TensorCache(cache), how(encoder, **options), share=share, on_bad=on_bad)
    return waited


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 20])
def test_every_process_encodes_its_share_and_opens_all(tmp_path, world, flip):
    folder, cache = pairs_folder(tmp_path / "data", 5), tmp_path / "cache"
    (folder / "4b.png").write_bytes(picture_file(0))  # the picture of r0 once more: 9 different ones
    encoders = [CountingEncoder() for _ in range(world)]
    for rank, encoder in enumerate(encoders):
        apart = tmp_path / f"cache-{rank}"  # as if they ran at the same time: nobody sees another's shards
        assert encode_as(rank, world, folder, apart, encoder, flip=flip) == ["waited"]
        cache.mkdir(exist_ok=True)
        for path in apart.glob("*"):
            path.rename(cache / path.name)
    assert sum(encoder.seen for encoder in encoders) == (18 if flip else 9)  # each by one process
    after = CountingEncoder()
    kept, latents, _ = build(folder, cache, after, flip=flip)
    assert after.seen == 0
    alone, own, _ = build(folder, tmp_path / "alone", CountingEncoder(), flip=flip)
    assert list(kept) == list(alone)
    assert all(torch.equal(latents.of(n, 0, name), own.of(n, 0, name)) for n, (name, _) in enumerate(kept))


def test_shares_of_a_cache_that_is_not_shared_are_made_up_for(tmp_path):
    folder, share, rest = pairs_folder(tmp_path / "data"), CountingEncoder(), CountingEncoder()
    encode_as(1, 2, folder, tmp_path / "cache", share)
    kept, _, _ = build(folder, tmp_path / "cache", rest)
    assert len(kept) == 3
    assert share.seen + rest.seen == 6
    assert 0 < share.seen < 6


@pytest.mark.parametrize("damage", ["missing", "text", "nan"])
def test_processes_agree_on_bad_pictures(tmp_path, damage):
    folder, cache = pairs_folder(tmp_path / "data", 4), tmp_path / "cache"
    broken = 101 if damage == "nan" else None
    if damage == "missing":
        (folder / "1b.png").unlink()
    elif damage == "text":
        (folder / "1b.png").write_bytes(b"text")
    for rank in range(2):
        assert encode_as(rank, 2, folder, cache, CountingEncoder(broken_shade=broken), on_bad="skip") == ["waited"]
    seen = [build(folder, cache, CountingEncoder(broken_shade=broken), on_bad="skip") for _ in range(2)]
    assert [name for name, _ in seen[0][0]] == ["r0", "r2", "r3"]
    assert [(counts.kept, counts.bad, counts.reasons) for _, _, counts in seen] == [
        (3, 1, seen[0][2].reasons),
        (3, 1, seen[0][2].reasons),
    ]


def test_damaged_picture_stops_the_process_whose_share_it_is(tmp_path):
    folder = pairs_folder(tmp_path / "data")
    (folder / "1b.png").write_bytes(b"text")
    (key, _), *_ = how(CountingEncoder()).keys([b"text"])
    owner = 0 if Share(0, 2).has(key) else 1
    with pytest.raises(DataError, match="record 'r1': not a readable picture"):
        encode_as(owner, 2, folder, tmp_path / "cache", CountingEncoder())
    assert encode_as(1 - owner, 2, folder, tmp_path / "cache", CountingEncoder()) == ["waited"]


def test_there_is_no_share_of_a_rank_beyond_the_world():
    with pytest.raises(ValueError, match="rank must be from 0 to 1, got 2"):
        Share(2, 2)


def test_a_picture_that_stands_twice_is_encoded_once(tmp_path):
    folder = pairs_folder(tmp_path / "data", 70)
    for number in range(70):  # the same loser in every pair
        (folder / f"{number}b.png").write_bytes(picture_file(255))
    encoder = CountingEncoder()
    kept, _, _ = build(folder, tmp_path / "cache", encoder)
    assert len(kept) == 70
    assert sum(encoder.batches) == 71
    assert max(encoder.batches) <= 8


# ---------------------------------------------------------------- bad pictures


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_bad_picture_is_named_or_skipped_and_counted(tmp_path, damage):
    folder = pairs_folder(tmp_path / "data")
    victim = folder / "1b.png"
    if damage == "missing":
        victim.unlink()
    else:
        whole = picture_file(size=(64, 64), form="JPEG")
        victim.write_bytes(whole[:-300] if damage == "truncated" else b"text")
    with pytest.raises(DataError, match="record 'r1': "):
        build(folder, tmp_path / "cache", CountingEncoder())
    kept, latents, counts = build(folder, tmp_path / "cache", CountingEncoder(), on_bad="skip")
    assert [name for name, _ in kept] == ["r0", "r2"]
    assert (counts.kept, counts.bad) == (2, 1)
    assert "record 'r1'" in counts.reasons[0]
    # the record after the bad one still finds its own pictures
    assert latents.of(1, 0, "r2")[0, 2, 0, 0].item() == pytest.approx(2 / 255, abs=1e-4)


def test_nan_posterior_is_dropped_counted_and_not_cached(tmp_path):
    folder, cache = pairs_folder(tmp_path / "data"), tmp_path / "cache"
    with pytest.raises(DataError, match="record 'r1': the autoencoder's latents of its pictures are not finite"):
        build(folder, cache, CountingEncoder(broken_shade=101))
    kept, latents, counts = build(folder, cache, CountingEncoder(broken_shade=101), on_bad="skip")
    assert [name for name, _ in kept] == ["r0", "r2"]
    assert (counts.kept, counts.bad) == (2, 1)
    assert latents.of(1, 0, "r2")[1, 2, 0, 0].item() == pytest.approx(102 / 255, abs=1e-4)
    mended = CountingEncoder()
    assert len(build(folder, cache, mended)[0]) == 3
    assert mended.seen == 1


def test_nothing_usable(tmp_path):
    folder = pairs_folder(tmp_path / "data", 2)
    for path in folder.glob("*a.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"2 bad rows; the first: record .r0.: cannot read"):
        build(folder, tmp_path / "cache", CountingEncoder(), on_bad="skip")
    with pytest.raises(DataError, match="no usable records: 0 are bad"):
        encode_records(
            [], TensorCache(tmp_path / "c"), how(CountingEncoder()), seed=0, on_bad="error", counts=ReadCounts()
        )


# ---------------------------------------------------------------- draws


def data_of(latents: Any, kept: Sequence[tuple[str, str]], cache: Path, **options: Any) -> GroupData:
    texts = Texts(TensorCache(cache), "t")
    prompts = [*(prompt for _, prompt in kept), ""]
    texts.fill(prompts, lambda chunk: {"states": torch.tensor([float(len(text)) for text in chunk])[:, None]})
    return GroupData(kept, latents, texts, **options)


def test_flips_are_joint_and_mirror_the_picture(tmp_path):
    folder = pairs_folder(tmp_path / "data", 1)
    kept, latents, _ = build(folder, tmp_path / "cache", CountingEncoder(), flip=True)
    plain = torch.stack([open_as_tensor(folder / name) for name in ("0a.png", "0b.png")])
    flipped = 0
    for epoch in range(24):
        seen = latents.of(0, epoch, "r0")
        mirrored = torch.allclose(seen, plain.flip(-1), atol=1e-4)
        assert mirrored or torch.allclose(seen, plain, atol=1e-4)  # both members, or neither
        flipped += mirrored
    assert 4 < flipped < 20
    assert list(kept) == [("r0", "prompt 0")]


def open_as_tensor(path: Path) -> torch.Tensor:
    import numpy as np

    pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_no_flip_unless_asked(tmp_path):
    _, latents, _ = build(pairs_folder(tmp_path / "data", 1), tmp_path / "cache", CountingEncoder())
    first = latents.of(0, 0, "r0")
    assert all(torch.allclose(latents.of(0, epoch, "r0"), first, atol=1e-4) for epoch in range(12))


def test_posterior_is_sampled_anew_each_epoch_and_the_same_again(tmp_path):
    folder, cache = pairs_folder(tmp_path / "data"), tmp_path / "cache"
    _, latents, _ = build(folder, cache, CountingEncoder(log_variance=0.0))
    _, twin, _ = build(folder, cache, CountingEncoder())
    _, other, _ = build(folder, cache, CountingEncoder(), seed=1)
    assert torch.equal(latents.of(0, 3, "r0"), twin.of(0, 3, "r0"))
    assert not torch.equal(latents.of(0, 3, "r0"), latents.of(0, 4, "r0"))
    assert not torch.equal(latents.of(0, 3, "r0"), other.of(0, 3, "r0"))
    noise = torch.stack([latents.of(0, epoch, "r0") for epoch in range(60)]) - torch.stack(
        [open_as_tensor(folder / name) for name in ("0a.png", "0b.png")]
    )
    assert noise.mean().abs() < 0.02
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)
    members = noise.flatten(2).transpose(0, 1).flatten(1)  # the members' own noise, not one for both
    assert torch.corrcoef(members)[0, 1].abs() < 0.05


def test_empty_prompt_share(tmp_path):
    kept, latents, _ = build(pairs_folder(tmp_path / "data", 1), tmp_path / "cache", CountingEncoder())
    data = data_of(latents, kept, tmp_path / "texts", empty_prompt_share=0.25)
    places = [(epoch, 0) for epoch in range(400)]
    states = data.batch(places).condition.leaves["states"].flatten()
    assert set(states.tolist()) == {0.0, 8.0}
    assert (states == 0).float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(data.batch(places[7:9]).condition.leaves["states"].flatten(), states[7:9])
    without = data_of(latents, kept, tmp_path / "texts")
    assert (without.batch(places[:50]).condition.leaves["states"] == 8).all()


def test_batch_does_not_depend_on_its_split(tmp_path):
    kept, latents, _ = build(
        pairs_folder(tmp_path / "data"), tmp_path / "cache", CountingEncoder(log_variance=0.0), flip=True
    )
    data = data_of(latents, kept, tmp_path / "texts", empty_prompt_share=0.5, seed=2)
    places = [(0, 2), (1, 0), (0, 1), (5, 2)]
    whole, parts = data.batch(places), [data.batch([place]) for place in places]
    assert torch.equal(whole.x0, torch.cat([part.x0 for part in parts]))
    leaves = [part.condition.leaves["states"] for part in parts]
    assert torch.equal(whole.condition.leaves["states"], torch.cat(leaves))
    assert whole.record_ids == ("r2", "r0", "r1", "r2")
    assert whole.x0.shape == (4, 2, 3, 8, 8)
    assert bool(whole.valid.all())
    assert whole.reward is None


def test_texts_are_encoded_once(tmp_path):
    asked: list[str] = []

    def encode(chunk: list[str]) -> dict[str, torch.Tensor]:
        asked.extend(chunk)
        return {"states": torch.arange(len(chunk)).float()}

    Texts(TensorCache(tmp_path), "t").fill(["a", "b", "a"], encode)
    Texts(TensorCache(tmp_path), "t").fill(["b", "c"], encode)
    Texts(TensorCache(tmp_path), "other").fill(["a"], encode)
    assert asked == ["a", "b", "c", "a"]


# ---------------------------------------------------------------- shipped latents


def shipped(path: Path, **about: Any) -> torch.Tensor:
    latents = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor([[1.0, 0.0]] * 3)
    save_latents(path, latents, rewards, ["a", "b"], [0, 1, 1], {"autoencoder": "f"} | about)
    return latents


def test_shipped_latents(tmp_path):
    latents = shipped(tmp_path / "x.safetensors")
    seen = ShippedLatents(tmp_path / "x.safetensors", "f")
    assert seen.records == [("group-0", "a"), ("group-1", "b"), ("group-2", "b")]
    torch.testing.assert_close(seen.of(1, 0, "group-1"), latents[1], rtol=1e-3, atol=1e-3)
    assert seen.of(1, 0, "x").dtype == torch.float32
    assert seen.reward(1).tolist() == [1.0, 0.0]
    batch = data_of(seen, seen.records, tmp_path / "texts").batch([(0, 2), (0, 0)])
    assert batch.preference.tolist() == [1.0, 1.0]
    assert data_of(seen, seen.records, tmp_path / "texts").batch([(0, 1), (0, 0)]).reward.shape == (2, 2)


def test_shipped_latents_of_another_autoencoder(tmp_path):
    shipped(tmp_path / "x.safetensors")
    with pytest.raises(
        DataError, match=r"another autoencoder .*made with f, have g.*use the model that they ship with"
    ):
        ShippedLatents(tmp_path / "x.safetensors", "g")


def test_damaged_shipped_latents(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="not a readable preference set"):
        ShippedLatents(path, "f")
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a readable preference set"):
        ShippedLatents(path, "f")
    save_latents(path, torch.full((1, 2, 1), float("inf")), torch.zeros(1, 2), ["a"], [0], {"autoencoder": "f"})
    with pytest.raises(DataError, match="not finite"):
        ShippedLatents(path, "f")
    save_latents(path, torch.zeros(1, 2, 1), torch.zeros(1, 2), ["a"], [5], {"autoencoder": "f"})
    with pytest.raises(DataError, match="not a readable preference set"):
        ShippedLatents(path, "f")
    save_latents(path, torch.zeros(0, 2, 1), torch.zeros(0, 2), [], [], {"autoencoder": "f"})
    with pytest.raises(DataError, match="no usable groups: the file is empty"):
        ShippedLatents(path, "f")
    with pytest.raises(DataError, match="no usable pairs: the file is empty"):
        ShippedLatents(path, "f", "pairs")


# ---------------------------------------------------------------- what else a record said


def test_preference_reaches_the_batch_of_its_record_and_other_columns_take_no_memory(tmp_path):
    pairs_folder(tmp_path / "data", 4)
    rows = [json.loads(line) for line in (tmp_path / "data" / "metadata.jsonl").read_text().splitlines()]
    rows[0] |= {
        "votes": {"a": 1, "b": 3},
        "preferences": {"VQ": "a"},
        "source": "survey",
        "condition": "c",
        "camera": 3,
    }
    rows[1]["chosen"] = "absent.png"  # skipped: the preferences of those behind it must not move up
    rows[3] |= {"votes": {"a": 9, "b": 1}}
    write_rows(tmp_path / "data" / "metadata.jsonl", rows)
    del rows
    kept, latents, _ = build(tmp_path / "data", tmp_path / "cache", CountingEncoder(), on_bad="skip")
    batch = data_of(latents, kept, tmp_path / "texts").batch([(0, 2), (0, 1), (1, 0)])
    assert batch.record_ids == ("r3", "r2", "r0")
    torch.testing.assert_close(batch.preference, torch.tensor([0.9, 1.0, 0.75]))
    assert batch.metadata == ()
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is dict and each.get("camera") == 3]


def test_encoding_many_pictures_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("diffalign.data.encoder._NOTICE", 4)
    folder = pairs_folder(tmp_path / "data", 5)
    with caplog.at_level("INFO", logger="diffalign.data.encoder"):
        build(folder, tmp_path / "cache", CountingEncoder(), batch=2)
        build(folder, tmp_path / "cache", CountingEncoder())  # nothing is new: silent
    assert [each.message for each in caplog.records] == ["4 pictures encoded so far", "8 pictures encoded so far"]
