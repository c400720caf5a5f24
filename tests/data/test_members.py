"""Rewards, labels and drawn members in batches, and pairs out of shipped groups."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.data import (
    GroupData,
    PictureEncoding,
    ReadCounts,
    ShippedLatents,
    TensorCache,
    Texts,
    encode_records,
    read_records,
    save_latents,
)
from diffalign.exceptions import DataError
from tests.data.pictures import groups_folder, pairs_folder, picture_file, write_rows


def as_it_is(pictures: Tensor) -> dict[str, Tensor]:
    """Latents are the picture itself."""
    return {"mean": pictures.clone(), "log_variance": torch.full_like(pictures, -40.0)}


def build(folder: Path, kind: Any, cache: Path, *, members: int | None = None, seed: int = 0) -> GroupData:
    counts = ReadCounts()
    encoding = PictureEncoding(fingerprint="f", posterior=as_it_is, resolution=8)
    rows = read_records(folder, kind, members=members, counts=counts)
    kept, latents = encode_records(
        rows, TensorCache(cache / "latents"), encoding, seed=seed, on_bad="error", counts=counts
    )
    return GroupData(kept, latents, texts_of(kept, cache), members=members, seed=seed)


def texts_of(records: Sequence[tuple[str, str]], cache: Path) -> Texts:
    texts = Texts(TensorCache(cache / "texts"), "t")
    texts.fill([prompt for _, prompt in records], lambda chunk: {"states": torch.zeros(len(chunk), 1)})
    return texts


def shades_of(x0: Tensor) -> list[list[int]]:
    """Which pictures they are [groups, members]."""
    return (x0[:, :, 2, 0, 0] * 255).round().int().tolist()


def labelled_folder(home: Path, labels: Sequence[Any]) -> Path:
    home.mkdir(exist_ok=True)
    for number in range(len(labels)):
        (home / f"{number}.png").write_bytes(picture_file(number))
    rows = [
        {"id": f"l{number}", "prompt": "p", "item": f"{number}.png", "label": label}
        for number, label in enumerate(labels)
    ]
    write_rows(home / "metadata.jsonl", rows)
    return home


# ---------------------------------------------------------------- rewards and labels


def test_rewards_reach_the_batch_with_their_pictures(tmp_path):
    data = build(groups_folder(tmp_path / "data", [[1, 3, 2], [None, 5, 4]]), "groups", tmp_path / "cache")
    batch = data.batch([(0, 1), (0, 0)])
    assert batch.reward is not None
    assert shades_of(batch.x0) == [[11, 12, 10], [1, 2, 0]]
    torch.testing.assert_close(batch.reward, torch.tensor([[5.0, 4.0, float("nan")], [3.0, 2.0, 1.0]]), equal_nan=True)
    assert batch.label is None
    assert bool(batch.valid.all())  # the latents are fine; the objective's inputs leave the unscored out


def test_labels_reach_the_batch_one_per_member(tmp_path):
    data = build(labelled_folder(tmp_path / "data", ["bad", True, 0]), "labelled", tmp_path / "cache")
    batch = data.batch([(0, 1), (0, 2), (1, 0)])
    assert batch.label is not None
    assert (batch.label.tolist(), batch.label.dtype) == ([[1.0], [-1.0], [-1.0]], torch.float32)
    assert (batch.x0.shape, batch.reward) == ((3, 1, 3, 8, 8), None)
    assert shades_of(batch.x0) == [[1], [2], [0]]


def test_pairs_carry_neither(tmp_path):
    batch = build(pairs_folder(tmp_path / "data"), "pairs", tmp_path / "cache").batch([(0, 0)])
    assert (batch.reward, batch.label) == (None, None)


def test_records_that_are_skipped_do_not_shift_rewards(tmp_path):
    folder = groups_folder(tmp_path / "data", [[2, 1], [4, 3], [6, 5]])
    (folder / "1-0.png").write_bytes(b"text")
    counts = ReadCounts()
    encoding = PictureEncoding(fingerprint="f", posterior=as_it_is, resolution=8)
    rows = read_records(folder, "groups", on_bad="skip", counts=counts)
    kept, latents = encode_records(rows, TensorCache(tmp_path / "c"), encoding, seed=0, on_bad="skip", counts=counts)
    assert [name for name, _ in kept] == ["g0", "g2"]
    assert [latents.reward(number).tolist() for number in range(2)] == [[2.0, 1.0], [6.0, 5.0]]


# ---------------------------------------------------------------- drawn members


def test_members_are_drawn_anew_each_epoch_and_the_same_again(tmp_path):
    folder = groups_folder(tmp_path / "data", [[6, 5, 4, 3, 2], [1, 2, 3, 4, 5]])
    data = build(folder, "groups", tmp_path / "cache", members=3)
    places = [(epoch, number) for epoch in range(30) for number in range(2)]
    batch = data.batch(places)
    assert batch.x0.shape == (60, 3, 3, 8, 8)
    again = build(folder, "groups", tmp_path / "cache", members=3)
    assert torch.equal(again.batch(places).x0, batch.x0)
    assert torch.equal(torch.cat([data.batch([place]).x0 for place in places]), batch.x0)  # whatever the batch
    other = build(folder, "groups", tmp_path / "cache", members=3, seed=1)
    assert shades_of(other.batch(places).x0) != shades_of(batch.x0)
    drawn = {tuple(each) for each in shades_of(batch.x0[::2])}
    assert len(drawn) > 5  # of 10
    assert {shade for each in drawn for shade in each} == {0, 1, 2, 3, 4}
    apart = {tuple(shade - 10 for shade in each) for each in shades_of(batch.x0[1::2])}
    assert apart != drawn  # each record draws its own


def test_drawn_members_keep_their_order_and_their_rewards(tmp_path):
    scores = [[3.0, 9.0, None, 5.0, 7.0], [1.0, 2.0, 4.0, 3.0]]
    data = build(groups_folder(tmp_path / "data", scores), "groups", tmp_path / "cache", members=2)
    batch = data.batch([(epoch, number) for epoch in range(12) for number in range(2)])
    assert batch.reward is not None
    assert bool((batch.reward[:, 0] > batch.reward[:, 1]).all())
    for row, (shades, rewards) in enumerate(zip(shades_of(batch.x0), batch.reward.tolist(), strict=True)):
        number = row % 2
        assert [scores[number][shade - 10 * number] for shade in shades] == rewards


@pytest.mark.parametrize("members", [None, 4])
def test_tied_members_stand_in_a_new_order_each_epoch(tmp_path, members):
    """Objectives on ranks take tied members as they stand: always the same order would be a preference."""
    folder = groups_folder(tmp_path / "data", [[1, 2, 2, 2]])
    data = build(folder, "groups", tmp_path / "cache", members=members)
    batch = data.batch([(epoch, 0) for epoch in range(60)])
    seen = [tuple(row) for row in shades_of(batch.x0)]
    assert {row[-1] for row in seen} == {0}  # the worst stays last
    assert {row[:3] for row in seen} == set(itertools.permutations((1, 2, 3)))
    assert batch.reward is not None and batch.reward.tolist() == [[2, 2, 2, 1]] * 60
    again = data.batch([(epoch, 0) for epoch in range(60)])
    assert torch.equal(again.x0, batch.x0)


def test_as_many_members_as_there_are_is_all_of_them(tmp_path):
    folder = groups_folder(tmp_path / "data", [[1, 2, 3]])
    whole = build(folder, "groups", tmp_path / "cache").batch([(0, 0)])
    drawn = build(folder, "groups", tmp_path / "cache", members=3).batch([(0, 0)])
    assert torch.equal(whole.x0, drawn.x0)
    assert torch.equal(whole.reward, drawn.reward)


def test_more_members_than_there_are(tmp_path):
    """Shipped groups come without a reader that would have said so."""
    path = groups_file(tmp_path, [[2.0, 1.0]])
    latents = ShippedLatents(path, "f")
    data = GroupData(latents.records, latents, texts_of(latents.records, tmp_path), members=3)
    with pytest.raises(DataError, match=r"record .group-0.: has 2 members, and data\.members asks for 3"):
        data.batch([(0, 0)])


def test_unscored_members_of_shipped_groups_are_not_drawn(tmp_path):
    path = groups_file(tmp_path, [[3.0, 2.0, float("nan"), float("nan")]])
    latents = ShippedLatents(path, "f")
    data = GroupData(latents.records, latents, texts_of(latents.records, tmp_path), members=2)
    batch = data.batch([(epoch, 0) for epoch in range(20)])
    assert batch.reward is not None and batch.reward.tolist() == [[3.0, 2.0]] * 20
    data = GroupData(latents.records, latents, texts_of(latents.records, tmp_path), members=3)
    with pytest.raises(DataError, match=r"record .group-0.: has 2 scored members, and data\.members asks for 3"):
        data.batch([(0, 0)])


# ---------------------------------------------------------------- the hash of it all


def test_content_hash_changes_with_a_reward_a_label_and_the_members_drawn(tmp_path):
    def group_hash(rewards: list[float | None], members: int | None = None) -> str:
        folder = groups_folder(tmp_path / "groups", [rewards])
        return build(folder, "groups", tmp_path / "cache", members=members).content_hash

    def label_hash(label: Any) -> str:
        return build(labelled_folder(tmp_path / "labels", [label]), "labelled", tmp_path / "cache").content_hash

    assert group_hash([3, 2, 1]) == group_hash([3.0, 2.0, 1.0])
    hashes = [group_hash([3, 2, 1]), group_hash([3, 2, 0.5]), group_hash([3, 2, None]), group_hash([1, 2, 3])]
    hashes += [group_hash([3, 2, 1], 2), group_hash([3, 2, 1], 3), label_hash("good"), label_hash("bad")]
    assert len(set(hashes)) == len(hashes)
    assert label_hash("good") == label_hash(1)


def test_content_hash_of_shipped_groups_changes_with_a_reward_and_with_the_kind(tmp_path):
    def hash_of(rewards: list[list[float]], kind: Any) -> str:
        return ShippedLatents(groups_file(tmp_path, rewards), "f", kind).content_hash

    rewards = [[4.0, 3.0, 2.0, 1.0]]
    hashes = [hash_of(rewards, "groups"), hash_of(rewards, "pairs"), hash_of([[5.0, 3.0, 2.0, 1.0]], "groups")]
    assert len(set(hashes)) == 3
    assert hash_of(rewards, "pairs") == hashes[1]


# ---------------------------------------------------------------- pairs out of shipped groups


def groups_file(home: Path, rewards: list[list[float]]) -> Path:
    """Groups, the best member first; latent of member k of group n is 10 n + k."""
    scores = torch.tensor(rewards)
    groups, members = scores.shape
    latents = (10.0 * torch.arange(groups)[:, None] + torch.arange(members))[..., None].expand(-1, -1, 2)
    path = home / "groups.safetensors"
    prompts = [f"prompt {number}" for number in range(groups)]
    save_latents(path, latents, scores, prompts, range(groups), {"autoencoder": "f"})
    return path


def test_shipped_groups_as_pairs_best_with_worst(tmp_path):
    seen = ShippedLatents(groups_file(tmp_path, [[4.0, 3.0, 2.0, 1.0], [8.0, 7.0, 6.0, 5.0]]), "f", "pairs")
    assert seen.records == [
        ("group-0-0", "prompt 0"),
        ("group-0-1", "prompt 0"),
        ("group-1-0", "prompt 1"),
        ("group-1-1", "prompt 1"),
    ]
    assert [seen.of(number, 0, "x")[:, 0].tolist() for number in range(4)] == [[0, 3], [1, 2], [10, 13], [11, 12]]
    assert [seen.reward(number).tolist() for number in range(4)] == [[4, 1], [3, 2], [8, 5], [7, 6]]
    assert (seen.ties, seen.preference(0), seen.label(0)) == (0, 1.0, None)
    assert seen.of(0, 0, "x").dtype == torch.float32
    data = GroupData(seen.records, seen, texts_of(seen.records, tmp_path))
    assert data.batch([(0, 3), (0, 0)]).record_ids == ("group-1-1", "group-0-0")


def test_shipped_groups_as_they_are(tmp_path):
    seen = ShippedLatents(groups_file(tmp_path, [[4.0, 3.0, 2.0], [8.0, 7.0, 7.0]]), "f", "groups")
    assert seen.records == [("group-0", "prompt 0"), ("group-1", "prompt 1")]
    assert seen.of(1, 0, "x")[:, 0].tolist() == [10, 11, 12]
    assert seen.reward(1).tolist() == [8, 7, 7]


def test_ties_are_left_out_counted_and_do_not_shift_the_names(tmp_path):
    rewards = [[1.0, 1.0, 1.0, 1.0], [4.0, 3.0, 3.0, 1.0]]
    seen = ShippedLatents(groups_file(tmp_path, rewards), "f", "pairs")
    assert (seen.records, seen.ties) == ([("group-1-0", "prompt 1")], 3)
    assert seen.of(0, 0, "x")[:, 0].tolist() == [10, 13]
    with pytest.raises(DataError, match="no usable pairs: no two members of a group differ in reward"):
        ShippedLatents(groups_file(tmp_path, rewards[:1]), "f", "pairs")


@pytest.mark.parametrize(
    ("members", "pairs"), [(1, []), (2, [[0, 1]]), (3, [[0, 2]]), (5, [[0, 4], [1, 3]]), (6, [[0, 5], [1, 4], [2, 3]])]
)
def test_the_middle_of_an_odd_group_is_left_out(tmp_path, members, pairs):
    path = groups_file(tmp_path, [[float(members - member) for member in range(members)]])
    if not pairs:
        with pytest.raises(DataError, match="no usable pairs"):
            ShippedLatents(path, "f", "pairs")
        return
    seen = ShippedLatents(path, "f", "pairs")
    assert [seen.of(number, 0, "x")[:, 0].tolist() for number in range(len(seen.records))] == pairs
    assert seen.ties == 0


def test_fewer_pairs_of_a_shipped_group(tmp_path):
    path, rewards = tmp_path / "x.safetensors", torch.tensor([[2.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 0.5]])
    save_latents(path, torch.zeros(2, 4, 1), rewards, ["a", "b"], [0, 1], {"autoencoder": "f"})
    for most, names in ((1, ["group-0-0", "group-1-0"]), (2, ["group-0-0", "group-0-1", "group-1-0"])):
        seen = ShippedLatents(path, "f", "pairs", pairs_per_group=most)
        assert [name for name, _ in seen.records] == names
    assert ShippedLatents(path, "f", "pairs").records == seen.records
