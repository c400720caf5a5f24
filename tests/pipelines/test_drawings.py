"""Pictures and records in a folder: whole, in order, and gone on with however an earlier call ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator, draw_pictures, drawings
from diffalign.samplers import DDIM, FlowEuler, FlowSDE
from tests.backbones.models import load

CHECKOUT = Path(__file__).parents[2]
TEXTS = ["a red circle", "a blue\u2028square", "кот ✓"]


class Shades(ImageGenerator):
    """Draws one shade per seed, without a network; counts."""

    def __call__(self, prompts: Any, seeds: Any, *, view: str = "policy") -> Any:
        for start in range(0, len(prompts), self.batch):
            chunk = seeds[start : start + self.batch]
            drawn.extend(chunk)
            yield torch.tensor(chunk)[:, None, None, None].expand(-1, 3, 2, 2) / 255


drawn: list[int] = []


@pytest.fixture
def generator():
    drawn.clear()
    return Shades.create(load("sd", lora=None), steps=2, batch=2)


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").split("\n") if line]


def test_pictures_and_records_from_python(tmp_path):
    """All that the command does, in one call; nothing of the command line is loaded for it."""
    generator = ImageGenerator.create(load("sd", lora=None), steps=1)
    seen = []
    rows = draw_pictures(
        generator, TEXTS[:1], tmp_path / "deep" / "out", seed=3, count=2, view="reference", source="mine",
        progress=lambda *state: seen.append(state),
    )  # fmt: skip
    assert rows == records(tmp_path / "deep" / "out")
    assert [(row["id"], row["file_name"], row["seed"], row["source"]) for row in rows] == [
        ("000000", "000000.png", 3, "mine"),
        ("000001", "000001.png", 4, "mine"),
    ]
    assert seen == [(2, 2)]


def test_again_draws_nothing_and_writes_nothing(generator, tmp_path):
    draw_pictures(generator, TEXTS, tmp_path, count=3)
    before, times = content(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    drawn.clear()
    draw_pictures(generator, TEXTS, tmp_path, count=3)
    assert (drawn, content(tmp_path)) == ([], before)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_only_what_is_missing_is_drawn_with_the_same_result(generator, tmp_path, monkeypatch, cut):
    draw_pictures(generator, TEXTS, tmp_path / "whole", count=3)
    original, saved = drawings.save_picture, []

    def save(picture: Any, path: Path) -> None:
        if len(saved) == cut:
            raise KeyboardInterrupt
        original(picture, path)
        saved.append(path)

    monkeypatch.setattr(drawings, "save_picture", save)
    with pytest.raises(KeyboardInterrupt):
        draw_pictures(generator, TEXTS, tmp_path / "cut", count=3)
    assert [row["id"] for row in records(tmp_path / "cut")] == [path.stem for path in saved]
    monkeypatch.setattr(drawings, "save_picture", original)
    (tmp_path / "cut" / "000000.png").unlink()
    drawn.clear()
    draw_pictures(generator, TEXTS, tmp_path / "cut", count=3)
    assert drawn == [0, *range(cut, 9)]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_killed_outright_and_gone_on_with(tmp_path):
    """kill -9 after the third picture: two are listed, the third's record was not written yet."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from diffalign.backbones import load_backbone; from diffalign.pipelines import ImageGenerator, drawings\n"
        "original, saved = drawings.save_picture, []\n"
        "def save(picture, path):\n"
        "    original(picture, path); saved.append(path)\n"
        "    if len(saved) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "drawings.save_picture = save\n"
        "generator = ImageGenerator.create(load_backbone('sd', 'zoo://shapes-sd'), steps=1, batch=2)\n"
        "drawings.draw_pictures(generator, ['a red circle'], Path(sys.argv[1]), count=5, view='reference')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}

    def start(cut: int) -> int:
        command = [sys.executable, "-c", code, str(tmp_path), str(cut)]
        return subprocess.run(command, env=environment, timeout=120, check=False).returncode

    assert start(3) == -signal.SIGKILL
    assert [row["id"] for row in records(tmp_path)] == ["000000", "000001"]
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in ("000000.png", "000001.png")}
    assert start(100) == 0
    assert [row["id"] for row in records(tmp_path)] == [f"00000{number}" for number in range(5)]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("end", [*range(11), 40, "within a letter", -1])
def test_record_that_was_cut_off_costs_that_picture_alone(generator, tmp_path, end):
    draw_pictures(generator, TEXTS, tmp_path)
    whole = content(tmp_path)
    *lines, last = whole["metadata.jsonl"].splitlines(keepends=True)
    last = '{"id": "ч'.encode()[:-1] if end == "within a letter" else last[:end]  # -1: the line's end alone
    (tmp_path / "metadata.jsonl").write_bytes(b"".join(lines) + last)
    drawn.clear()
    draw_pictures(generator, TEXTS, tmp_path)
    assert drawn == ([] if end == -1 else [2])
    assert content(tmp_path) == whole


def test_records_of_pictures_that_will_be_overwritten_go_first(generator, tmp_path, monkeypatch):
    draw_pictures(generator, TEXTS, tmp_path)

    def save(picture: Any, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drawings, "save_picture", save)
    with pytest.raises(KeyboardInterrupt):
        draw_pictures(generator, ["another", *TEXTS[1:]], tmp_path, overwrite=True)
    assert [row["id"] for row in records(tmp_path)] == ["000001", "000002"]


@pytest.mark.parametrize(("options", "says"), [({"seed": 1}, "has seed: 0"), ({"count": 2}, "has prompt")])
def test_pictures_of_other_settings_stay_unless_they_may_go(generator, tmp_path, options, says):
    draw_pictures(generator, TEXTS, tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=rf"out: .* {says}.*--overwrite"):
        draw_pictures(generator, TEXTS, tmp_path, **options)
    with pytest.raises(ConfigError, match=r"has 2 pictures that this call does not draw, 000001.png for one"):
        draw_pictures(generator, TEXTS[:1], tmp_path)
    assert content(tmp_path) == before
    draw_pictures(generator, TEXTS[:1], tmp_path, overwrite=True)
    assert content(tmp_path).keys() == {"000000.png", "metadata.jsonl"}


def test_pictures_that_people_voted_on_are_never_overwritten(generator, tmp_path):
    """The votes would be taken for ones on the new pictures."""
    draw_pictures(generator, TEXTS, tmp_path)
    (tmp_path / "votes.jsonl").write_text("{}")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"votes.jsonl has votes on its pictures; move that file away"):
        draw_pictures(generator, TEXTS, tmp_path, seed=1, overwrite=True)
    assert content(tmp_path) == before
    draw_pictures(generator, TEXTS, tmp_path)  # the same again


def test_one_text_is_no_list_of_prompts(generator, tmp_path):
    """Its letters would each be drawn."""
    for call in (
        lambda: draw_pictures(generator, "a red circle", tmp_path),
        lambda: next(generator.latents("a red circle", range(12))),
    ):
        with pytest.raises(ValueError, match="give a list of texts, got the one text 'a red circle'"):
            call()


def test_the_listing_is_written_as_a_whole_once_however_many_batches(generator, tmp_path, monkeypatch):
    replaced, original = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: replaced.append(Path(new).name) or original(old, new))
    draw_pictures(generator, TEXTS, tmp_path, count=20)
    assert replaced.count("metadata.jsonl") == 1


def test_foreign_listings_are_left_alone(generator, tmp_path):
    for number, text in enumerate(('{"id": "7", "image": "mine.png"}', "nonsense", "[1]\n")):
        out = tmp_path / str(number)
        out.mkdir()
        (out / "metadata.jsonl").write_text(text)
        with pytest.raises(ConfigError, match=r"out: .* lists something that generate did not draw"):
            draw_pictures(generator, TEXTS, out)
        assert (out / "metadata.jsonl").read_text() == text
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="out: cannot make"):
        draw_pictures(generator, TEXTS, tmp_path / "file")


def test_a_record_tells_samplers_apart(tmp_path):
    """Form and guard as much as class and eta: a picture of other settings is not the one that is asked for."""
    backbone, told = load("sd3"), []
    for sampler in (FlowEuler(), FlowSDE(eta=0.8), FlowSDE("cps", 0.8), DDIM(0.8)):
        generator = ImageGenerator.create(backbone, sampler=sampler, steps=1)
        (row,) = draw_pictures(generator, ["a red circle"], tmp_path / str(len(told)), source="zoo", view="reference")
        told.append((row["sampler"], row["eta"]))
    assert told[0] == ("FlowEuler", 0.0) and told[3] == ("DDIM", 0.8)
    assert told[1:3] == [("FlowSDE(form='flow_grpo', guard=None)", 0.8), ("FlowSDE(form='cps', guard=None)", 0.8)]
