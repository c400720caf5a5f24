"""kill -9 of processes that draw or score together: nothing lost, nothing doubled, no record wrong at any moment."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffalign.data.part_files import PartFiles
from diffalign.evaluation import score_records
from diffalign.pipelines import DrawingModel, draw_models
from diffalign.rewards import JPEGReward
from tests.data.pictures import picture_file, write_rows
from tests.end_to_end.kills import begin, kill, wait
from tests.pipelines.shades import Shades, shades

WORLD = 2
PROMPTS = [f"prompt {number}" for number in range(30)]


class Slow(Shades):
    """Takes its time, so that a kill comes amid it."""

    def __call__(self, prompts: Any, seeds: Any, *, view: str = "policy") -> Any:
        for batch in super().__call__(prompts, seeds, view=view):
            time.sleep(0.004)
            yield batch


class SlowJPEG(JPEGReward):
    """Likewise."""

    def judge(self, pixels: Any, sample: Any) -> Any:
        time.sleep(0.004)
        return super().judge(pixels, sample)


def _slow(offset: int) -> Slow:
    made = shades(offset)
    made.__class__ = Slow  # the same fields
    return made  # type: ignore[return-value]


def draw(told: tuple[Path, int, int]) -> None:
    """One process's share of two models' pictures."""
    out, rank, world = told
    models = [DrawingModel(lambda: _slow(0), name="a"), DrawingModel(lambda: _slow(100), name="b")]
    draw_models(models, PROMPTS, out, count=2, rank=rank, world=world)


def score(told: tuple[Path, int, int]) -> None:
    """One process's share of the scores."""
    out, rank, world = told
    score_records(out.parent / "pictures", out / "scores.jsonl", [SlowJPEG()], batch=2, rank=rank, world=world)


def pictures(home: Path) -> None:
    home.mkdir()
    for number in range(120):
        (home / f"{number}.png").write_bytes(picture_file(number))
    rows = [{"id": f"r{number}", "file_name": f"{number}.png", "prompt": "x"} for number in range(120)]
    write_rows(home / "metadata.jsonl", rows)


def killed_and_gone_on_with(
    target: Callable[[Any], None], out: Path, listing: Path, kills: int, look: Callable[[], None]
) -> int:
    """Kill one or all of the processes again and again, start them again, and let them end; how many kills hit."""
    out.mkdir(parents=True)
    draws, hits = random.Random(0), 0
    parts = [PartFiles(listing, rank, WORLD) for rank in range(WORLD)]

    def size(part: PartFiles) -> int:
        try:
            return part.own.stat().st_size
        except FileNotFoundError:  # not begun, or just merged: it may go between a look and the next
            return 0

    def written() -> list[int]:
        return [size(part) for part in parts]

    def start(rank: int) -> BaseProcess:
        return begin(target, (out, rank, WORLD))

    lives = [start(rank) for rank in range(WORLD)]
    for _ in range(kills):
        before = written()
        wait(lives[0], lambda before=before: written() != before)  # type: ignore[misc]
        time.sleep(draws.uniform(0, 0.03))
        chosen = draws.choice([[0], [1], [0, 1]])
        hits += sum([kill(lives[rank]) for rank in chosen])
        look()
        for rank in chosen:
            lives[rank] = start(rank)
    for life in lives:
        life.join(120)
        assert life.exitcode == 0
    return hits


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_drawing(tmp_path, kills):
    draw((tmp_path / "whole", 0, 1))
    out = tmp_path / "killed"
    parts = PartFiles(out / "metadata.jsonl", 0, WORLD)

    def look() -> None:
        listing = out / "metadata.jsonl"
        listed = [json.loads(line) for line in listing.read_text().splitlines()] if listing.exists() else []
        for row in [*listed, *parts.read()]:
            with Image.open(out / row["file_name"]) as picture:
                assert picture.getpixel((0, 0))[0] == row["seed"] + (100 if row["id"].endswith("b") else 0)

    assert killed_and_gone_on_with(draw, out, out / "metadata.jsonl", kills, look) >= 2
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_scoring(tmp_path, kills):
    pictures(tmp_path / "pictures")
    (tmp_path / "whole").mkdir()
    score((tmp_path / "whole", 0, 1))
    out = tmp_path / "killed"
    assert killed_and_gone_on_with(score, out, out / "scores.jsonl", kills, lambda: None) >= 2
    assert content(out) == content(tmp_path / "whole")
