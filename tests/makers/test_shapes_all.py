"""The recipes: every command can be typed, and what is made already is passed over."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from makers import shapes_all
from makers.shapes_recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_command_is_one_that_its_maker_takes(name, tmp_path):
    steps = list(shapes_all.steps_left(name, tmp_path))
    assert [step.module.split(".shapes_")[1] for step in steps][:: len(steps) - 1] == ["vae", "card"]
    for step in steps:
        options = import_module(step.module).parser().parse_args(step.arguments(str(tmp_path)))
        written = getattr(options, "out", None) or options.model / "card.json"
        assert written == tmp_path / step.makes


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_step_reads_an_earlier_one_has_made(name):
    made = set()
    for step in RECIPES[name].steps:
        words = step.arguments("build")
        read = {words[at + 1] for at, word in enumerate(words) if word in ("--vae", "--start", "--model")}
        assert read <= made, step.command()
        made.add(f"build/{step.makes}")


def test_phases_have_seeds_of_their_own():
    seeds = [step.options.split("--seed ")[1][0] for step in RECIPES["shapes-sd"].steps if step.module.endswith("_sd")]
    assert seeds == ["0", "1", "2"]


def test_what_is_there_is_passed_over(tmp_path, monkeypatch, capsys):
    for made in ("shapes-vae", "sd-1"):
        (tmp_path / made).mkdir()
    monkeypatch.setattr(sys, "argv", ["shapes_all", "shapes-sd", "--build", str(tmp_path), "--dry"])
    shapes_all.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [
        "makers.shapes_sd", "makers.shapes_sd", "makers.shapes_preferences", "makers.shapes_card",
    ]  # fmt: skip
    assert f"--start {tmp_path}/sd-1" in lines[0]
