"""Records that name a reference: psnr and ssim by the score runner and by `diffalign score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffalign.cli import app
from diffalign.evaluation import score_records
from diffalign.rewards import JPEGReward, PSNRReward, load_reward
from tests.data.pictures import picture_file, write_rows

judged: list[str] = []


class Counting(PSNRReward):
    """The reward; notes what it judges."""

    def judge(self, pixels: Any, sample: Any) -> Any:
        judged.append(sample.id)
        return super().judge(pixels, sample)


@pytest.fixture(autouse=True)
def nothing_judged():
    judged.clear()


@pytest.fixture
def restored(tmp_path) -> Path:
    """sr/records.jsonl with three pictures, whose references lie in another folder."""
    for folder in ("sr", "hr"):
        (tmp_path / folder).mkdir()
    rows = []
    for number in range(3):
        (tmp_path / "hr" / f"{number}.png").write_bytes(picture_file(0, (16, 16)))
        (tmp_path / "sr" / f"{number}.png").write_bytes(picture_file(20 * (number + 1), (16, 16)))
        rows.append({"id": f"r{number}", "file_name": f"{number}.png", "reference": f"../hr/{number}.png"})
    return write_rows(tmp_path / "sr" / "records.jsonl", rows)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def expected(restored: Path, name: str = "psnr", **options: Any) -> list[float]:
    sr, hr = restored.parent, restored.parent.parent / "hr"
    pictures = [np.asarray(Image.open(sr / f"{number}.png")) for number in range(3)]
    facts = [{"reference": hr / f"{number}.png"} for number in range(3)]
    return load_reward(name, **options)(pictures, metadata=facts).tolist()


def test_from_the_command_line(restored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)  # paths do not start here
    out = tmp_path / "deep" / "scores.jsonl"
    command = [
        "score",
        "--input",
        str(restored),
        "--out",
        str(out),
        "-r",
        "psnr:crop_border=2",
        "-r",
        "ssim",
        "-r",
        "jpeg",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    rows = rows_of(out)
    assert [np.float32(row["psnr"]) for row in rows] == expected(restored, crop_border=2)
    assert [np.float32(row["ssim"]) for row in rows] == expected(restored, "ssim")
    assert rows[0]["psnr"] > rows[1]["psnr"] > rows[2]["psnr"]
    assert [row["reference"] for row in rows] == [f"../hr/{number}.png" for number in range(3)]
    assert rows[0]["file_name"] == "../sr/0.png" and rows[0]["versions"]["psnr"] == "1-y-b2"
    again = CliRunner().invoke(app, command)
    assert again.stderr.splitlines()[-1] == "pictures: 0 looked at, 3 known already"
    assert rows_of(out) == rows


def test_paths_follow_the_file_and_scores_can_be_added_to_it(restored, tmp_path):
    first, second = tmp_path / "scores.jsonl", tmp_path / "a" / "more.jsonl"
    score_records(restored, first, [JPEGReward()])
    assert rows_of(first)[1]["reference"] == "hr/1.png" and "reference_picture" not in rows_of(first)[1]
    score_records(first, second, [Counting()])
    assert [np.float32(row["psnr"]) for row in rows_of(second)] == expected(restored)
    assert rows_of(second)[1]["reference"] == "../hr/1.png" and rows_of(second)[1]["jpeg"] < 0
    score_records(second, tmp_path / "last.jsonl", [load_reward("scene")])  # keeps them
    assert [row["psnr"] for row in rows_of(tmp_path / "last.jsonl")] == [row["psnr"] for row in rows_of(second)]
    assert rows_of(tmp_path / "last.jsonl")[0]["reference_picture"] == rows_of(second)[0]["reference_picture"]


def test_another_reference_is_compared_anew(restored, tmp_path):
    out, hr = tmp_path / "scores.jsonl", restored.parent.parent / "hr"
    score_records(restored, out, [Counting(), JPEGReward()])
    assert judged == ["r0", "r1", "r2"]
    score_records(restored, out, [Counting(), JPEGReward()])
    assert judged == ["r0", "r1", "r2"]
    before = rows_of(out)
    (hr / "1.png").write_bytes(picture_file(200, (16, 16)))
    score_records(restored, out, [Counting(), JPEGReward()])
    assert judged[3:] == ["r1"]
    assert rows_of(out)[1]["psnr"] < before[1]["psnr"] and rows_of(out)[1]["jpeg"] == before[1]["jpeg"]
    (hr / "2.png").write_bytes(picture_file(201, (16, 16)))
    score_records(out, tmp_path / "more.jsonl", [load_reward("ssim")])  # of what it says, psnr is of another reference
    assert "psnr" in rows_of(tmp_path / "more.jsonl")[1] and "psnr" not in rows_of(tmp_path / "more.jsonl")[2]


def test_missing_and_wrong_references_are_null_with_the_reason_and_spare_other_rewards(restored, tmp_path):
    rows = rows_of(restored)
    del rows[0]["reference"]
    rows[1]["reference"] = "../hr/none.png"
    (restored.parent.parent / "hr" / "2.png").write_bytes(picture_file(0, (16, 17)))
    write_rows(restored, rows)
    done = score_records(restored, tmp_path / "s.jsonl", [PSNRReward(), JPEGReward()])
    first, second, third = rows_of(tmp_path / "s.jsonl")
    assert first["psnr"] is None and "no reference to compare with" in first["psnr_reason"]
    assert second["psnr"] is None and "reference: cannot read" in second["psnr_reason"]
    assert third["psnr"] is None and "its reference 17 x 16; they must be of one size" in third["psnr_reason"]
    assert all(row["jpeg"] < 0 for row in (first, second, third))
    assert done.summary is not None and done.summary["psnr"]["unscored"] == 3


def test_columns_of_somebody_else_stay_as_they_are(restored, tmp_path):
    rows = [row | {"reference": value} for row, value in zip(rows_of(restored), ("Smith 2020", 5, "."), strict=True)]
    write_rows(restored, rows)
    score_records(restored, tmp_path / "s.jsonl", [JPEGReward()])
    assert [row["reference"] for row in rows_of(tmp_path / "s.jsonl")] == ["Smith 2020", 5, "."]


def test_a_group_shares_its_reference(tmp_path):
    for name, shade in (("hr", 0), ("a", 20), ("b", 40)):
        (tmp_path / f"{name}.png").write_bytes(picture_file(shade, (16, 16)))
    write_rows(
        tmp_path / "groups.jsonl", [{"id": "g", "prompt": "x", "items": ["a.png", "b.png"], "reference": "hr.png"}]
    )
    score_records(tmp_path / "groups.jsonl", tmp_path / "s.jsonl", [PSNRReward()])
    first, second = rows_of(tmp_path / "s.jsonl")
    assert first["psnr"] > second["psnr"] and first["reference"] == second["reference"] == "hr.png"


def test_references_in_a_parquet_file(restored, tmp_path):
    sr, hr = restored.parent, restored.parent.parent / "hr"
    rows = [
        {
            "id": f"r{number}",
            "item": {"bytes": (sr / f"{number}.png").read_bytes()},
            "reference": (hr / f"{number}.png").read_bytes(),
        }
        for number in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "records.parquet")
    score_records(tmp_path / "records.parquet", tmp_path / "s.parquet", [PSNRReward()])
    found = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [np.float32(row["psnr"]) for row in found] == expected(restored)


def test_two_processes(restored, tmp_path):
    for rank in (1, 0):
        done = score_records(restored, tmp_path / "s.jsonl", [Counting()], batch=1, rank=rank, world=2)
    assert done.summary is not None and sorted(judged) == ["r0", "r1", "r2"]
    assert [np.float32(row["psnr"]) for row in rows_of(tmp_path / "s.jsonl")] == expected(restored)
