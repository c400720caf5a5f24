"""The score runner: one row a picture, nothing scored twice, the same result however it was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffalign.data.picture_rows import read_pictures
from diffalign.evaluation import score_records
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import JPEGReward, SceneReward, load_reward
from tests.data.pictures import groups_folder, pairs_folder, picture_file, write_rows

judged: list[str] = []


class Counting(JPEGReward):
    """The JPEG reward; notes what it judges, and can stop."""

    stop_at = 10**9

    def judge(self, pixels: Any, sample: Any) -> Any:
        if len(judged) >= self.stop_at:
            raise KeyboardInterrupt
        judged.append(sample.id)
        return super().judge(pixels, sample)


@pytest.fixture(autouse=True)
def nothing_judged():
    judged.clear()


def drawn(home: Path, count: int = 5) -> Path:
    home.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        (home / f"{number}.png").write_bytes(picture_file(40 * number, (16 + number, 16)))
        rows.append({"id": f"r{number}", "file_name": f"{number}.png", "prompt": f"prompt {number}", "source": "m"})
    write_rows(home / "metadata.jsonl", rows)
    return home


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_one_row_a_picture_with_its_value_version_and_path(tmp_path):
    home, out = drawn(tmp_path / "drawn"), tmp_path / "deep" / "scores.jsonl"
    reward = JPEGReward()
    done = score_records(home, out, [reward], batch=2)
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [f"r{number}" for number in range(5)]
    expected = reward([np.asarray(Image.open(home / f"{number}.png")) for number in range(5)])
    assert [np.float32(row["jpeg"]) for row in rows] == expected.tolist()
    assert rows[1]["file_name"] == "../drawn/1.png"
    assert (rows[1]["prompt"], rows[1]["source"], rows[1]["versions"]) == (
        "prompt 1",
        "m",
        {"jpeg": reward.spec.version},
    )
    assert done.summary is not None
    facts = done.summary["jpeg"]
    assert (facts["scored"], facts["unscored"], facts["unit"]) == (5, 0, "kB")
    assert facts["mean"] == pytest.approx(expected.mean().item())
    assert facts["std"] == pytest.approx(expected.std(correction=0).item(), rel=1e-4)
    assert (done.scored, done.known) == (5, 0)
    assert [path.name for path in out.parent.iterdir()] == ["scores.jsonl"]


def test_a_column_versions_of_somebody_else(tmp_path):
    home, out = drawn(tmp_path / "drawn", 1), tmp_path / "scores.jsonl"
    foreign = [row | {"versions": "1.0"} for row in rows_of(home / "metadata.jsonl")]
    write_rows(home / "metadata.jsonl", foreign)
    score_records(home, out, [JPEGReward()])
    assert rows_of(out)[0]["versions"] == {"jpeg": JPEGReward().spec.version}
    write_rows(out, [rows_of(out)[0] | {"versions": "1.0"}])
    with pytest.raises(ConfigError, match="was not written by score"):
        score_records(home, out, [JPEGReward()])


def test_unscored_is_null_with_the_reason(tmp_path):
    home = drawn(tmp_path, 3)
    (home / "1.png").write_bytes(b"no picture")
    (home / "2.png").unlink()
    done = score_records(home, tmp_path / "s.jsonl", [JPEGReward(), SceneReward()])
    first, second, third = rows_of(tmp_path / "s.jsonl")
    assert first["jpeg"] < 0 and first["scene"] is None and "not of the scene grammar" in first["scene_reason"]
    assert second["jpeg"] is None and "not a readable picture" in second["jpeg_reason"]
    assert third["jpeg"] is None and "cannot read" in third["jpeg_reason"] and third["picture"] is None
    assert "jpeg_reason" not in first
    assert done.summary is not None
    assert (done.summary["jpeg"]["scored"], done.summary["jpeg"]["unscored"]) == (1, 2)
    assert "mean" not in done.summary["scene"]


def test_what_is_known_is_not_scored_again(tmp_path):
    home, out = drawn(tmp_path), tmp_path / "s.jsonl"
    score_records(home, out, [Counting()])
    before = out.read_bytes()
    judged.clear()
    done = score_records(home, out, [Counting()])
    assert (judged, done.scored, done.known, out.read_bytes()) == ([], 0, 5, before)
    (home / "3.png").write_bytes(picture_file(1, (40, 40)))  # another picture
    rows = rows_of(home / "metadata.jsonl")
    rows[4]["prompt"] = "which this reward does not look at"
    write_rows(home / "metadata.jsonl", rows)
    score_records(home, out, [Counting()])
    assert judged == ["r3"]
    judged.clear()
    score_records(home, out, [Counting(quality=50)])  # another version
    assert len(judged) == 5


def test_components_are_written_if_asked_for_and_missing_ones_scored_again(tmp_path):
    home, out = drawn(tmp_path, 2), tmp_path / "s.jsonl"
    score_records(home, out, [Counting()])
    judged.clear()
    for _ in range(2):
        score_records(home, out, [Counting()], components=True)
        assert len(judged) == 2
    row = rows_of(out)[0]
    assert row["jpeg.kilobytes"] == -row["jpeg"]


class Plain(Counting):
    """A reward that is made of nothing else."""

    components = ()

    def judge(self, pixels: Any, sample: Any) -> Any:
        return super().judge(pixels, sample)[0], {}


def test_reward_without_components_is_not_scored_again_for_them(tmp_path):
    home, out = drawn(tmp_path, 5), tmp_path / "s.jsonl"
    for _ in range(2):
        score_records(home, out, [Plain()], components=True)
        assert len(judged) == 5
    assert set(rows_of(out)[0]) == {"id", "file_name", "prompt", "source", "jpeg", "picture", "versions"}


def test_reward_of_another_kind_without_components_is_not_scored_again_for_all(tmp_path):
    class Wrapped:
        def __init__(self) -> None:
            self.within = Plain()
            self.spec, self.score = self.within.spec, self.within.score

        def __call__(self, *arguments: Any) -> Any:
            return self.within(*arguments)

    home, out = drawn(tmp_path, 5), tmp_path / "s.jsonl"
    score_records(home, out, [Wrapped()], components=True, batch=2)
    judged.clear()
    score_records(home, out, [Wrapped()], components=True, batch=2)
    assert judged == ["r0", "r1"]  # which showed that there are none


def test_a_reward_is_added_to_what_is_there(tmp_path):
    home, out = drawn(tmp_path, 2), tmp_path / "s.jsonl"
    score_records(home, out, [Counting()])
    score_records(out, out, {"small": load_reward("jpeg", quality=30)})
    rows = rows_of(out)
    assert set(rows[0]["versions"]) == {"jpeg", "small"} and rows[0]["jpeg"] < rows[0]["small"]
    (home / "1.png").write_bytes(picture_file(9, (30, 30)))  # then what another reward said no longer holds
    score_records(out, out, {"small": load_reward("jpeg", quality=30)})
    rows = rows_of(out)
    assert set(rows[0]["versions"]) == {"jpeg", "small"} and "jpeg" not in rows[1]["versions"] and "jpeg" not in rows[1]


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_cut_off_and_gone_on_with_equals_uninterrupted(tmp_path, monkeypatch, cut):
    home, out = drawn(tmp_path), tmp_path / "s.jsonl"
    score_records(home, tmp_path / "whole.jsonl", [Counting()], batch=2)
    judged.clear()
    monkeypatch.setattr(Counting, "stop_at", cut)
    with pytest.raises(KeyboardInterrupt):
        score_records(home, out, [Counting()], batch=2)
    assert not out.exists()
    monkeypatch.setattr(Counting, "stop_at", 10**9)
    done = score_records(home, out, [Counting()], batch=2)
    assert done.known == cut // 2 * 2
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_several_processes_one_after_the_other_equal_one(tmp_path, order):
    home, out = drawn(tmp_path), tmp_path / "s.jsonl"
    (home / "1.png").write_bytes(b"no picture")
    (home / "2.png").unlink()
    score_records(home, tmp_path / "whole.jsonl", [Counting()], batch=1)
    judged.clear()
    for number, rank in enumerate(order):
        done = score_records(home, out, [Counting()], batch=1, rank=rank, world=3)
        assert (done.summary is not None, out.exists()) == (number == 2, number == 2)
    assert sorted(judged) == ["r0", "r3", "r4"]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_process_that_comes_late_mends_what_the_others_took_for_finished(tmp_path):
    """A picture changed after its process was killed; another one has joined all parts before that one looked again."""
    home, out = drawn(tmp_path, 2), tmp_path / "s.jsonl"
    score_records(home, out, [Counting()], batch=1, rank=1, world=2)
    (home / "1.png").write_bytes(picture_file(7, (50, 50)))
    score_records(home, out, [Counting()], batch=1, rank=0, world=2)
    score_records(home, out, [Counting()], batch=1, rank=1, world=2)
    score_records(home, tmp_path / "whole.jsonl", [Counting()])
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_pairs_groups_bare_pictures_and_parquet(tmp_path):
    pairs, groups = pairs_folder(tmp_path / "pairs", 2), groups_folder(tmp_path / "groups", [[1.0, 0.0, 2.0]])
    score_records(pairs, tmp_path / "p.jsonl", [JPEGReward()])
    assert [row["id"] for row in rows_of(tmp_path / "p.jsonl")] == [
        "r0-chosen",
        "r0-rejected",
        "r1-chosen",
        "r1-rejected",
    ]
    score_records(groups, tmp_path / "g.parquet", [JPEGReward()])
    table = pq.read_table(tmp_path / "g.parquet").to_pylist()
    assert [row["file_name"] for row in table] == [f"groups/0-{member}.png" for member in range(3)]
    score_records(groups, tmp_path / "g.parquet", [Counting()])
    assert judged == []
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("b.png", "a.jpg"):
        (bare / name).write_bytes(picture_file(3))
    (bare / "b.txt").write_text("a red circle\n")
    score_records(bare, bare / "s.jsonl", [JPEGReward()])
    assert [(row["id"], row["prompt"]) for row in rows_of(bare / "s.jsonl")] == [
        ("a.jpg", ""),
        ("b.png", "a red circle"),
    ]
    with pytest.raises(ConfigError, match="a parquet file among the pictures"):
        score_records(bare, bare / "s.parquet", [JPEGReward()])


def test_pictures_inside_parquet_have_no_file(tmp_path):
    rows = [{"prompt": "a", "item": {"bytes": picture_file(number), "path": None}} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    for rank in (0, 1):
        score_records(tmp_path / "data.parquet", tmp_path / "s.jsonl", [JPEGReward()], batch=1, rank=rank, world=2)
    assert [row["file_name"] for row in rows_of(tmp_path / "s.jsonl")] == [None] * 3


def test_refusals(tmp_path):
    home = drawn(tmp_path, 2)
    for rewards, says in (([], "none were given"), ([JPEGReward(), JPEGReward(quality=1)], "two have one name")):
        with pytest.raises(ConfigError, match=says):
            score_records(home, tmp_path / "s.jsonl", rewards)
    with pytest.raises(ConfigError, match="a column 'prompt' is something else"):
        score_records(home, tmp_path / "s.jsonl", {"prompt": JPEGReward()})
    with pytest.raises(ConfigError, match="was not written by score"):
        score_records(home, home, [JPEGReward()])
    write_rows(tmp_path / "twice.jsonl", [{"id": "a", "file_name": "0.png"}] * 2)
    with pytest.raises(DataError, match="this id stands twice"):
        list(read_pictures(tmp_path / "twice.jsonl"))
    (home / ".metadata.jsonl.part-0-of-2").write_text("{}")
    with pytest.raises(DataError, match="generate has not finished there"):
        score_records(home, tmp_path / "s.jsonl", [JPEGReward()])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in it"):
        score_records(tmp_path / "empty", tmp_path / "s.jsonl", [JPEGReward()])
