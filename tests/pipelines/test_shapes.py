"""Shapes that a volume model draws: as pictures, as files, and made to stand after they were drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines import ImageGenerator, as_pictures, best_of_n, contact_sheet, draw_pictures, to_picture
from diffalign.pipelines.shape_search import push_margin, search_noise
from diffalign.rewards import Sample, StabilityReward, load_reward
from diffalign.sim import Voxels, glb_of, read_mesh, static_stability
from tests.backbones.models import load_fresh

PROMPTS = ["a red circle", "two green crosses"]


@pytest.fixture(scope="module")
def generator() -> ImageGenerator:
    return ImageGenerator.create(load_fresh("volume"), steps=2, batch=2)


def gallows() -> torch.Tensor:
    grid = torch.zeros(1, 16, 16, 16)
    grid[:, 1:4, 6:9, :12] = 1
    grid[:, 1:12, 6:9, 12:14] = 1
    return grid


def test_a_picture_shows_the_shape_put_down_and_at_rest():
    picture = np.asarray(to_picture(gallows()))
    height, width = picture.shape[:2]
    assert width == 2 * height
    before, after = picture[:, :height], picture[:, height:]
    assert (before != after).any() and (after != 255).any()
    empty = np.asarray(to_picture(torch.zeros(1, 4, 4, 4)))
    assert (empty == 255).all()


def test_sheets_hold_shapes_as_they_hold_pictures():
    grids = torch.stack([gallows(), torch.zeros(1, 16, 16, 16)])
    drawn = as_pictures(grids, 32)
    assert drawn.shape == (2, 3, 32, 32) and drawn.min() >= 0 and drawn.max() <= 1
    assert (drawn[0] < 1).any() and (drawn[1] == 1).all()
    assert contact_sheet(grids).size == (196, 96)
    pictures = torch.rand(2, 3, 8, 8)
    assert as_pictures(pictures) is pictures


def test_drawn_shapes_are_files_that_are_scored_as_they_were_drawn(generator, tmp_path):
    rows = draw_pictures(generator, PROMPTS, tmp_path, count=2)
    assert [row["file_name"] for row in rows] == [f"{number:06d}.glb" for number in range(4)]
    listed = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert listed == rows
    grids = torch.cat(list(generator([row["prompt"] for row in rows], [row["seed"] for row in rows])))
    reward = load_reward("stability", form="margin")
    meshes = [read_mesh(tmp_path / str(row["file_name"])) for row in rows]
    torch.testing.assert_close(reward(meshes), reward(grids), atol=1e-5, rtol=0)
    for row in rows:
        with Image.open((tmp_path / str(row["file_name"])).with_suffix(".png")) as picture:
            assert picture.size == (256, 128)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.glb")}
    draw_pictures(generator, PROMPTS, tmp_path, count=2)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.glb")}


@pytest.mark.parametrize(("shift", "stands"), [(0, 1.0), (4, 0.0)], ids=["in a face", "in an edge"])
def test_a_file_falls_apart_where_its_grid_does(shift, stands, tmp_path):
    """A block on another one: cubes that meet in an edge alone do not hold together, in a file neither."""
    grid = torch.zeros(1, 16, 16, 16)
    grid[:, 4:8, 4:8, :4] = 1
    grid[:, 4 + shift : 8 + shift, 4:8, 4:8] = 1
    grid[:, 8:12, 4:8, :1] = 1  # a foot below, which stays
    (tmp_path / "0.glb").write_bytes(glb_of(Voxels.of(grid.numpy())))
    reward = load_reward("stability", pieces="fall")
    drawn, filed = (reward.score([Sample(shape)]) for shape in (grid, read_mesh(tmp_path / "0.glb")))
    assert drawn.values.tolist() == filed.values.tolist() == [stands]
    assert drawn.components["pieces"].item() == filed.components["pieces"].item() == 2 - stands


def test_the_best_of_several_shapes_is_the_one_that_the_reward_likes(generator):
    reward = StabilityReward(form="margin")
    best = best_of_n(generator, PROMPTS, reward, 3)
    assert best.scores.shape == (2, 3)
    torch.testing.assert_close(reward(best.pictures), best.scores.amax(1))
    with pytest.raises(ConfigError, match="jpeg judges pictures, and the model draws shapes"):
        best_of_n(generator, PROMPTS, load_reward("jpeg"), 3)


def test_gradients_on_the_margin_make_it_stand_and_keep_its_form():
    before = gallows()
    assert static_stability(Voxels.of(before.numpy())).margin < 0
    found = push_margin(before, target=0.05)
    after = Voxels.of(found.grid.numpy())
    assert found.score >= 0.05 and static_stability(after).margin == pytest.approx(found.score)
    assert 0 < found.tries < 200
    changed = (after.occupied != (before[0].numpy() > 0.5)).mean()
    assert 0 < changed < 0.1
    assert after.occupied[..., 0][1:4, 6:9].all()  # the foot stays, and may grow
    assert load_reward("stability")([found.grid]).item() == 1.0
    standing = push_margin(found.grid, target=0.05)
    assert standing.tries == 0 and torch.equal(standing.grid, found.grid)
    with pytest.raises(DataError, match="empty"):
        push_margin(torch.zeros(1, 4, 4, 4))


def test_search_keeps_the_best_and_ends_when_it_is_good_enough(generator):
    reward = load_reward("stability", form="margin")
    first = search_noise(generator, PROMPTS[0], 0, reward, tries=1)
    searched = search_noise(generator, PROMPTS[0], 0, reward, tries=6)
    assert searched.score >= first.score and searched.tries == 6
    assert reward([searched.grid]).item() == pytest.approx(searched.score)
    assert search_noise(generator, PROMPTS[0], 0, reward, tries=6, enough=-1.0).tries == 1
    with pytest.raises(ConfigError, match="tries must be 1 or more"):
        search_noise(generator, PROMPTS[0], 0, reward, tries=0)
