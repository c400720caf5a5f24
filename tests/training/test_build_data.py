"""The section `data`: what a second run finds, what makes it read again, and settings that have no effect."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import normalizers

from diffalign.backbones.fingerprint import fingerprint_of
from diffalign.config import parse_config
from diffalign.data import GroupData, file_state, record_list
from diffalign.exceptions import ConfigError, DataError
from diffalign.objectives import get_objective
from diffalign.training.build import build_backbone
from diffalign.training.build_data import build_data
from diffalign.training.record_checks import check_records
from tests.data.pictures import pairs_folder, picture_file, write_rows
from tests.training.tiny import tiny, tiny_settings


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(file_state, "SETTLED", 0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory):
    return build_backbone(tiny(tmp_path_factory.mktemp("model")), torch.device("cpu"))


@pytest.fixture
def encoded(backbone, monkeypatch) -> list[int]:
    """Pictures in each call of the autoencoder, 0 for each call of the text encoder."""
    calls: list[int] = []
    posterior, text = backbone.posterior, backbone.text
    monkeypatch.setattr(backbone, "posterior", lambda media: calls.append(len(media)) or posterior(media))
    monkeypatch.setattr(backbone, "text", lambda prompts: calls.append(0) or text(prompts))
    return calls


def built(home: Path, backbone: Any, **data: Any) -> GroupData:
    told = tiny_settings(home, data={"path": str(home / "data"), "resolution": 16} | data)
    return build_data(parse_config(told), backbone)


def test_a_second_run_reads_no_picture(tmp_path, backbone, encoded, monkeypatch):
    pairs_folder(tmp_path / "data", 3)
    first = built(tmp_path, backbone)
    assert sum(encoded) == 6 and encoded.count(0) == 1
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} is read"))
    again = built(tmp_path, backbone)
    assert sum(encoded) == 6 and encoded.count(0) == 1
    assert again.content_hash == first.content_hash
    assert torch.equal(again.batch([(0, 1)]).x0, first.batch([(0, 1)]).x0)
    assert again.counts is not None and again.counts.kept == 3


@pytest.mark.parametrize(
    ("change", "pictures"),
    [
        ({"resolution": 24}, 6),
        ({"flip": True}, 6),  # the mirror images alone
        ({"fit": "pad"}, 6),
        ({"buckets": {"step": 8}}, 0),  # the square of the buckets is the square of before
        ({"buckets": {"step": 8}, "fit": "pad"}, 6),
        ({"on_bad": "skip"}, 0),
    ],
)
def test_what_a_changed_setting_makes_anew(tmp_path, backbone, encoded, change, pictures):
    pairs_folder(tmp_path / "data", 3)
    built(tmp_path, backbone)
    encoded.clear()
    built(tmp_path, backbone, **change)
    assert sum(encoded) == pictures
    encoded.clear()
    built(tmp_path, backbone)
    built(tmp_path, backbone, **change)
    assert encoded == []


def test_other_weights_make_everything_anew(tmp_path, backbone, encoded):
    pairs_folder(tmp_path / "data", 3)
    before = built(tmp_path, backbone).batch([(0, 0)])
    encoded.clear()
    weight = next(backbone.pipeline.vae.parameters())
    text = next(backbone.pipeline.text_encoder.parameters())
    kept = weight.data.clone(), text.data.clone()
    try:
        weight.data.view(-1)[0] += 0.5
        text.data.view(-1)[0] += 0.5
        after = built(tmp_path, backbone).batch([(0, 0)])
    finally:
        weight.data.copy_(kept[0])
        text.data.copy_(kept[1])
    assert sum(encoded) == 6 and encoded.count(0) == 1
    assert not torch.equal(before.x0, after.x0)


def test_a_picture_that_was_replaced_is_seen_by_the_second_run(tmp_path, backbone, encoded):
    folder = pairs_folder(tmp_path / "data", 3)
    before = built(tmp_path, backbone)
    encoded.clear()
    (folder / "1a.png").write_bytes(picture_file(200))
    after = built(tmp_path, backbone)
    assert sum(encoded) == 1
    assert not torch.equal(before.batch([(0, 1)]).x0, after.batch([(0, 1)]).x0)
    assert torch.equal(before.batch([(0, 2)]).x0, after.batch([(0, 2)]).x0)


@pytest.mark.parametrize("kind", ["latents", "texts"])
def test_a_shard_that_is_damaged_in_training_is_encoded_again(tmp_path, backbone, encoded, kind):
    pairs_folder(tmp_path / "data", 3)
    data = built(tmp_path, backbone)
    expected = data.batch([(0, 0), (0, 2)])
    for shard in (tmp_path / "cache").glob(f"{kind}-*/*.safetensors"):
        content = bytearray(shard.read_bytes())
        content[-3] ^= 0xFF
        shard.unlink()
        shard.write_bytes(bytes(content))
    data = built(tmp_path, backbone)
    encoded.clear()
    seen = data.batch([(0, 0), (0, 2)])
    assert torch.equal(seen.x0, expected.x0)
    assert torch.equal(seen.condition.leaves["states"], expected.condition.leaves["states"])
    assert (sum(encoded), encoded.count(0)) == ((6, 0) if kind == "latents" else (0, 1))


@pytest.mark.parametrize("part", ["vae", "text"])
def test_encoders_that_had_left_memory_leave_it_again(tmp_path, monkeypatch, part):
    """One reading serves all that was lost, other prompts than those that were asked for too."""
    pairs_folder(tmp_path / "data", 3)
    backbone = build_backbone(tiny(tmp_path / "model"), torch.device("cpu"))
    data = built(tmp_path, backbone)
    expected = data.batch([(0, 0), (0, 2)])
    backbone.free_encoders("text", "vae")
    read: list[str] = []
    need = backbone.encoders.need
    monkeypatch.setattr(backbone.encoders, "need", lambda part: read.append(part) or need(part))
    for shard in (tmp_path / "cache").glob(f"{'latents' if part == 'vae' else 'texts'}-*/*.safetensors"):
        content = bytearray(shard.read_bytes())
        content[-3] ^= 0xFF
        shard.unlink()
        shard.write_bytes(bytes(content))
    data = built(tmp_path, backbone)
    seen = [data.batch([(0, number)]) for number in (0, 2)]
    assert read == [part]
    assert not backbone.encoders.has("text") and not backbone.encoders.has("vae")
    assert torch.equal(torch.cat([each.x0 for each in seen]), expected.x0)
    states = torch.cat([each.condition.leaves["states"] for each in seen])
    assert torch.equal(states, expected.condition.leaves["states"])


def test_what_was_left_out_is_said_again(tmp_path, backbone, caplog):
    folder = pairs_folder(tmp_path / "data", 3)
    (folder / "1a.png").unlink()
    built(tmp_path, backbone, on_bad="skip")
    caplog.clear()
    data = built(tmp_path, backbone, on_bad="skip")
    assert data.counts is not None and (data.counts.kept, data.counts.bad) == (2, 1)
    assert "1 bad rows were left out" in caplog.text and "record 'r1'" in caplog.text
    with pytest.raises(DataError, match="record 'r1'"):
        built(tmp_path, backbone)


def test_a_dimension(tmp_path, backbone):
    folder = pairs_folder(tmp_path / "data", 1, preferences={"VQ": "b"})
    plain, turned = built(tmp_path, backbone), built(tmp_path, backbone, dimension="VQ")
    one, other = plain.batch([(0, 0)]).x0[0], turned.batch([(0, 0)]).x0[0]  # draws from the same two posteriors
    assert (one.flip(0) - other).abs().mean() < (one - other).abs().mean() / 2
    assert plain.content_hash != turned.content_hash and folder.is_dir()
    with pytest.raises(ConfigError, match=r"data\.dimension: is of data\.kind: pairs"):
        built(tmp_path, backbone, dimension="VQ", kind="groups")


def test_a_saved_dataset(tmp_path, backbone, encoded):
    columns = {
        "prompt": ["p0", "p1"],
        "chosen": [{"bytes": picture_file(shade), "path": None} for shade in range(2)],
        "rejected": [{"bytes": picture_file(9 + shade), "path": None} for shade in range(2)],
    }
    datasets.disable_progress_bars()
    datasets.DatasetDict({"small": datasets.Dataset.from_dict(columns)}).save_to_disk(tmp_path / "data")
    data = built(tmp_path, backbone, split="small")
    assert [prompt for _, prompt in data.records] == ["p0", "p1"] and sum(encoded) == 4
    encoded.clear()
    assert built(tmp_path, backbone, split="small").content_hash == data.content_hash
    assert encoded == []
    with pytest.raises(DataError, match=r"data\.split: .* has no 'train', only small"):
        built(tmp_path, backbone)
    with pytest.raises(ConfigError, match=r"data\.streaming: .* is on this disk"):
        built(tmp_path, backbone, split="small", streaming=True)


@pytest.mark.parametrize("given", [{"split": "test"}, {"config_name": "x"}, {"streaming": True}])
def test_settings_of_datasets_on_a_plain_folder(tmp_path, backbone, given):
    pairs_folder(tmp_path / "data", 1)
    (name,) = given
    with pytest.raises(ConfigError, match=rf"data\.{name}: .* is no Hugging Face dataset; leave it out"):
        built(tmp_path, backbone, **given)


def test_the_first_wrong_record_is_named_wherever_it_stands(tmp_path, backbone, monkeypatch):
    """They are looked at some thousand at a time."""
    monkeypatch.setattr(record_list, "CHUNK", 4)
    home = tmp_path / "data"
    home.mkdir()
    (home / "a.png").write_bytes(picture_file(1))
    (home / "b.png").write_bytes(picture_file(2))
    rewards = [[0.5, 0.4]] * 9 + [[0.5, 1.5]] + [[7, 8]] * 3
    rows = [
        {"id": f"g{n}", "prompt": "p", "items": ["a.png", "b.png"], "rewards": each} for n, each in enumerate(rewards)
    ]
    write_rows(home / "metadata.jsonl", rows)
    config = tiny(
        tmp_path, data={"path": str(home), "resolution": 16, "kind": "groups"}, objective={"name": "rank_dpo"}
    )
    data = build_data(config, backbone)
    with pytest.raises(ConfigError, match=r"record 'g9' has 1\.5, 0\.5"):
        check_records(config, get_objective("rank_dpo"), data)


def test_a_tokenizer_s_rules_are_part_of_its_fingerprint(backbone):
    tokenizer = copy.deepcopy(backbone.pipeline.tokenizer)
    before = fingerprint_of("text", {}, {"tokenizer": tokenizer})
    tokenizer(["a red circle", "a"], padding="max_length", truncation=True)
    tokenizer(["a red circle", "a"], padding=True)
    assert fingerprint_of("text", {}, {"tokenizer": tokenizer}) == before
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert fingerprint_of("text", {}, {"tokenizer": tokenizer}) != before


def test_records_beyond_the_limit_are_not_encoded(tmp_path, backbone, encoded, caplog):
    pairs_folder(tmp_path / "data", 5)
    first = built(tmp_path, backbone, limit=2)
    assert sum(encoded) == 4 and len(first) == 2
    whole = built(tmp_path, backbone)
    assert sum(encoded) == 10 and len(whole) == 5
    assert len(built(tmp_path, backbone, limit=2)) == 2 and sum(encoded) == 10


def test_more_records_than_the_run_sees_are_told_of(tmp_path, backbone, caplog):
    pairs_folder(tmp_path / "data", 9)
    told = tiny_settings(tmp_path, data={"path": str(tmp_path / "data"), "resolution": 16})
    told["training"] = told["training"] | {"steps": 2, "groups": 2, "accumulation": 1}
    build_data(parse_config(told), backbone)
    assert (
        "the run sees 4 groups, and the source has over twice as many" in caplog.text and "data.limit=4" in caplog.text
    )
    caplog.clear()
    told["training"]["steps"], told["data"]["cache"] = 3, str(tmp_path / "other")
    build_data(parse_config(told), backbone)
    assert "data.limit" not in caplog.text


def test_a_limit_of_latents_is_refused(tmp_path, backbone):
    with pytest.raises(ConfigError, match=r"data\.limit: .*holds latents, not pictures"):
        build_data(parse_config(tiny_settings(tmp_path, data={"limit": 3})), backbone)
