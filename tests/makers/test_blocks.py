"""The volume model of the zoo: its captions, objects and static test, and the way from nothing to a card."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

from diffalign.backbones import load_backbone
from diffalign.zoo import locate
from makers import blocks_all, blocks_card, blocks_volume, shapes_all
from makers.blocks_measure import Examples, both_ways, measure, standing_by_kind
from makers.blocks_objects import DIRECTIONS, KINDS, SIDE, captions, draw_object, held_out_captions, is_held_out
from makers.blocks_pictures import picture, sheet
from makers.blocks_recipes import RECIPES
from makers.blocks_static import in_one_piece, stands

SHAPES = captions()


def solid(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    grid = np.zeros((SIDE,) * 3, bool)
    for box in boxes:
        grid[box] = True
    return grid


# ---------------------------------------------------------------- the static test


def test_what_stands_by_hand():
    foot = (slice(2, 6), slice(2, 6), slice(0, 4))
    assert stands(solid(foot)) and stands(
        solid((slice(2, 6), slice(2, 6), slice(5, 9)))
    )  # wherever its lowest layer is
    # 32 voxels with their centre at x = 10, beside 64 at x = 4: exactly above the edge at 6
    assert not stands(solid(foot, (slice(6, 14), slice(2, 6), slice(3, 4))))
    assert stands(solid(foot, (slice(6, 13), slice(2, 6), slice(3, 4))))
    assert not stands(np.zeros((4, 4, 4), bool))


def test_pieces_touch_by_their_faces():
    apart = solid((slice(0, 2), slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4), slice(0, 2)))
    assert not in_one_piece(apart)  # an edge is not enough
    assert in_one_piece(solid((slice(0, 2), slice(0, 2), slice(0, 2)), (slice(2, 4), slice(0, 1), slice(0, 1))))
    assert not in_one_piece(np.zeros((3, 3, 3), bool))


# ---------------------------------------------------------------- captions and objects


def test_captions():
    held_out = held_out_captions()
    assert len(SHAPES) == 416 and len(held_out) == 94 == len(set(held_out))
    assert all(is_held_out(text) for text in held_out)
    assert {SHAPES[text].kind for text in held_out} == set(KINDS)
    assert locate("zoo://blocks-volume/held_out").read_text("utf-8").splitlines() == held_out
    assert "a tall wide table on three thin legs reaching to the left" in SHAPES


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_caption_there_are_objects_that_stand_and_that_topple(kind):
    """Whole, on the floor, in the middle."""
    rng = np.random.default_rng(0)
    for shape in SHAPES.values():
        if shape.kind != kind:
            continue
        for standing in (True, False):
            grid = draw_object(shape, rng, standing=standing)
            assert grid.shape == (SIDE,) * 3 and stands(grid) is standing
            assert in_one_piece(grid) and grid[:, :, 0].any()
            for axis in (0, 1):
                filled = np.flatnonzero(grid.any((1 - axis, 2)))
                assert abs(filled[0] + filled[-1] + 1 - SIDE) <= 2


def test_directions_are_quarter_turns():
    """Of one seed: the same object, and what hangs over is where the caption says."""
    over = {}
    for direction in DIRECTIONS:
        shape = SHAPES[f"a tall thin L shape with a long arm to the {direction}"]
        grid = draw_object(shape, np.random.default_rng(3))
        top, bottom = (np.argwhere(layer).mean(0) for layer in (grid.any(2), grid[:, :, 5]))
        over[direction] = np.sign(np.round(top - bottom)).tolist()
    assert over == {"right": [1, 0], "back": [0, 1], "left": [-1, 0], "front": [0, -1]}


def test_the_bank_is_balanced_and_has_no_held_out_captions():
    bank = blocks_volume.draw_bank(2 * 322, 0)
    grids = bank.cells[:, 0].numpy() > 0
    assert sum(stands(grid) for grid in grids) == 322
    assert torch.bincount(bank.index).tolist() == [2] * 322
    assert set(bank.cells.unique().tolist()) == {-1, 1}
    assert not set(bank.texts) & set(held_out_captions())
    few = blocks_volume.draw_bank(3 * 322, 0, standing=0.35)
    assert sum(stands(grid) for grid in few.cells[:, 0].numpy() > 0) == 2 * 322  # the first and the third of each
    again = blocks_volume.draw_bank(10, 0)
    assert torch.equal(again.cells, bank.cells[:10])


def test_every_word_is_one_token_and_every_caption_fits():
    tokenizer = blocks_volume.build_tokenizer()
    lengths = [len(tokenizer(text).input_ids) for text in SHAPES]
    assert lengths == [len(text.split()) + 2 for text in SHAPES]
    assert max(lengths) <= blocks_volume.LENGTH


# ---------------------------------------------------------------- measuring


def test_procedural_objects_are_found_again():
    examples = Examples.draw(2, 0)
    numbers = [0, 100, 300, 831]
    grids = [examples.cells[number].reshape((SIDE,) * 3) > 0 for number in numbers]
    asked = [examples.shapes[number] for number in numbers]
    found = measure(grids, asked, examples)
    assert {
        name: found[name] for name in ("kind", "direction", "words", "caption", "overlap", "one_piece")
    } == dict.fromkeys(("kind", "direction", "words", "caption", "overlap", "one_piece"), 1.0)
    assert found["standing"] == np.mean([number % 2 == 0 for number in numbers])
    others = measure(grids, [asked[2], asked[1], asked[0], asked[3]], examples)
    assert others["caption"] == 0.5


def test_both_ways_by_hand():
    up, down = (
        solid((slice(2, 6), slice(2, 6), slice(0, 4))),
        solid((slice(2, 4), slice(2, 4), slice(0, 4)), (slice(4, 12), slice(2, 4), slice(3, 4))),
    )
    assert both_ways([up, down, up, up], ["a", "a", "b", "b"]) == 0.5
    shape = next(iter(SHAPES.values()))
    assert standing_by_kind([up, down], [shape, shape]) == {shape.kind: 0.5}
    assert measure([down], [shape], Examples.draw(1, 0))["height_toppling"] == 4


def test_toppling_objects_are_red():
    up, down = (
        solid((slice(2, 6), slice(2, 6), slice(0, 4))),
        solid((slice(2, 4), slice(2, 4), slice(0, 4)), (slice(4, 12), slice(2, 4), slice(3, 4))),
    )
    for grid, channel in ((up, 2), (down, 0)):
        pixels = np.asarray(picture(grid)).astype(int)
        drawn = pixels[(pixels.max(-1) - pixels.min(-1)) > 30]
        assert len(drawn) > 100 and (drawn.argmax(-1) == channel).all()
    width, height = picture(up).size
    assert sheet([up, down, up], columns=2).size == (2 * width, 2 * height)


# ---------------------------------------------------------------- from nothing to a card


def test_recipe_can_be_typed(tmp_path, monkeypatch, capsys):
    steps = list(shapes_all.steps_left("blocks-volume", tmp_path, RECIPES))
    assert [step.module for step in steps] == ["makers.blocks_volume"] * 2 + ["makers.blocks_card"]
    assert f"--start {tmp_path}/{steps[0].makes}-state.pt" in steps[1].command(str(tmp_path))
    for step in steps:
        options = import_module(step.module).parser().parse_args(step.arguments(str(tmp_path)))
        assert (getattr(options, "out", None) or options.model / "card.json") == tmp_path / step.makes
    monkeypatch.setattr(sys, "argv", ["blocks_all", "blocks-volume", "--build", str(tmp_path), "--dry"])
    blocks_all.main(blocks_all.__doc__, RECIPES)
    assert capsys.readouterr().out.count("python -m") == 3


def test_rate_rises_stays_and_falls():
    assert blocks_volume.rate(0, 2000) == 1 / 200
    assert blocks_volume.rate(1000, 2000) == blocks_volume.rate(1000, 3000) == 1  # a longer schedule agrees
    assert blocks_volume.rate(1700, 2000) == pytest.approx(0.5)


def call(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_from_nothing_to_a_card(monkeypatch, tmp_path):
    model, whole = tmp_path / "blocks-volume", tmp_path / "whole"
    common = ("--batch", 2, "--width", 24, "--heads", 2, "--layers", 1, "--objects", 8)
    call(blocks_volume, monkeypatch, "--out", model, *common, "--stop", 2)
    call(blocks_volume, monkeypatch, "--out", model, *common, "--stop", 4)  # goes on
    call(blocks_volume, monkeypatch, "--out", whole, *common, "--stop", 2)
    begun = tmp_path / "whole-state.pt"
    whole = tmp_path / "from-the-other"
    call(blocks_volume, monkeypatch, "--out", whole, "--start", begun, *common, "--stop", 4)
    for part in ("transformer", "text_encoder"):
        halves = next((model / part).glob("*.safetensors")).read_bytes()
        assert halves == next((whole / part).glob("*.safetensors")).read_bytes()
    backbone = load_backbone("volume", str(model))
    assert backbone.sample_shape() == (1, 16, 16, 16) and backbone.time_shift() == blocks_volume.SHIFT

    told = ("--steps", 2, "--each", 2, "--examples", 2, "--captions", 3)
    call(blocks_card, monkeypatch, "--model", model, *told)
    card = json.loads((model / "card.json").read_text("utf-8"))
    assert (card["family"], card["objects"], card["seeds"]) == ("volume", 6, "0 to 5")
    assert 0 <= card["standing"] <= 1 and card["procedural"]["one_piece"] == 1
    readme = " ".join((model / "README.md").read_text("utf-8").split())
    assert f"{card['standing']:.1%} of 6 objects stand" in readme
    assert f"1. {held_out_captions()[0]} 2. " in readme
    assert (model / "held_out.png").is_file()
