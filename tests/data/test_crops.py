"""What a network is told of each picture's crop: its own, of its mirror image where that is shown, from the cache too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
from tests.data.pictures import picture_file, write_rows

SIZES = {"wide": (21, 8), "tall": (16, 40)}  # width, height
CROPS = {"wide": [8, 21, 0, 6, 8, 8], "tall": [40, 16, 6, 0, 8, 8]}
MIRRORED = {"wide": [8, 21, 0, 7, 8, 8], "tall": [40, 16, 6, 0, 8, 8]}


@pytest.fixture
def folder(tmp_path) -> Path:
    home = tmp_path / "data"
    home.mkdir()
    for shade, (name, size) in enumerate(SIZES.items()):
        (home / f"{name}.png").write_bytes(picture_file(shade, size))
    rows = [
        {"id": "r0", "prompt": "one", "chosen": "wide.png", "rejected": "tall.png"},
        {"id": "r1", "prompt": "two", "chosen": "tall.png", "rejected": "wide.png"},
    ]
    write_rows(home / "metadata.jsonl", rows)
    return home


def data_of(
    folder: Path, cache: Path, *, flip: bool = False, members: int | None = None, crop_leaf: str | None = "time_ids"
) -> tuple[GroupData, list[int]]:
    encoded: list[int] = []

    def posterior(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        encoded.append(len(pictures))
        return {"mean": pictures.clone(), "log_variance": torch.full_like(pictures, -40.0)}

    kind = "groups" if members else "pairs"
    encoding = PictureEncoding(fingerprint="f", posterior=posterior, resolution=8, flip=flip)
    kept, latents = encode_records(
        read_records(folder, kind, members=members),
        TensorCache(cache),
        encoding,
        seed=0,
        on_bad="error",
        counts=ReadCounts(),
    )
    texts = Texts(TensorCache(cache / "texts"), "t")
    texts.fill([prompt for _, prompt in kept], lambda chunk: {"states": torch.ones(len(chunk), 2)})
    return GroupData(kept, latents, texts, members=members, crop_leaf=crop_leaf), encoded


def test_each_member_has_its_own_crop(folder, tmp_path):
    data, _ = data_of(folder, tmp_path / "cache")
    condition = data.batch([(0, 0), (0, 1)]).condition
    assert condition.per_member == {"time_ids"}
    assert condition.leaves["time_ids"].tolist() == [[CROPS["wide"], CROPS["tall"]], [CROPS["tall"], CROPS["wide"]]]
    rows = condition.expand(2).leaves
    assert rows["time_ids"].tolist() == [CROPS["wide"], CROPS["tall"], CROPS["tall"], CROPS["wide"]]
    assert rows["states"].shape == (4, 2)


def test_crops_come_from_the_cache_with_the_latents(folder, tmp_path):
    first, encoded = data_of(folder, tmp_path / "cache")
    again, nothing = data_of(folder, tmp_path / "cache")
    assert sum(encoded) == 2 and nothing == []
    assert torch.equal(*(each.batch([(0, 1)]).condition.leaves["time_ids"] for each in (first, again)))


def test_a_mirror_image_has_its_own_crop(folder, tmp_path):
    """The pair is mirrored together; where the rest is odd, the square's left moves by a pixel."""
    data, _ = data_of(folder, tmp_path / "cache", flip=True)
    plain, _ = data_of(folder, tmp_path / "plain")
    upright = plain.batch([(0, 0)]).x0[0]
    seen = set()
    for epoch in range(16):
        batch = data.batch([(epoch, 0)])
        mirrored = torch.allclose(batch.x0[0], upright.flip(-1), atol=1e-4)
        expected = MIRRORED if mirrored else CROPS
        assert batch.condition.leaves["time_ids"][0].tolist() == [expected["wide"], expected["tall"]]
        seen.add(mirrored)
    assert seen == {False, True}


def test_crops_follow_the_members_that_are_drawn(tmp_path):
    home = tmp_path / "groups"
    home.mkdir()
    for number in range(5):
        (home / f"{number}.png").write_bytes(picture_file(number, (8 + 2 * number, 8)))
    items = [f"{number}.png" for number in range(5)]
    row = {"id": "g", "prompt": "one", "items": items, "rewards": [5.0, 4.0, 3.0, 2.0, 1.0]}
    write_rows(home / "metadata.jsonl", [row])
    data, _ = data_of(home, tmp_path / "cache", members=3)
    for epoch in range(6):
        batch = data.batch([(epoch, 0)])
        shades = (batch.x0[0, :, 2, 0, 0] * 255).round().long()
        assert batch.condition.leaves["time_ids"][0, :, 1].tolist() == (8 + 2 * shades).tolist()


def test_a_network_that_is_not_told_gets_no_leaf(folder, tmp_path):
    data, _ = data_of(folder, tmp_path / "cache", crop_leaf=None)
    condition = data.batch([(0, 0)]).condition
    assert condition.leaves.keys() == {"states"} and not condition.per_member


def test_shipped_latents_have_no_crops(tmp_path):
    path = tmp_path / "set.safetensors"
    save_latents(path, torch.zeros(1, 2, 4, 8, 8), torch.tensor([[1.0, 0.0]]), ["one"], [0], {"autoencoder": "a"})
    latents = ShippedLatents(path, "a")
    texts = Texts(TensorCache(tmp_path / "texts"), "t")
    texts.fill(["one"], lambda chunk: {"states": torch.ones(len(chunk), 2)})
    data = GroupData(latents.records, latents, texts, crop_leaf="time_ids")
    assert data.batch([(0, 0)]).condition.leaves.keys() == {"states"}
