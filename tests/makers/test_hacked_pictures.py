"""The hacks that need no network: each scores at least what the honest picture does, and its figure is written."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from makers.hacked_figure import Panel
from makers.hacked_pictures import confetti, figures, parser, rendered, write


@pytest.mark.parametrize("name", ["scene", "jpeg", "jpeg_incompressible", "distortion", "geneval", "full_reference"])
def test_hacks_score_at_least_what_the_honest_picture_does(name, tmp_path):
    figure = figures()[name]()
    assert figure.hacks
    for hack in figure.hacks:
        assert all(hack.scores[reward] >= score for reward, score in figure.honest.scores.items())
        assert (hack.pixels != figure.honest.pixels).any()
    path = write(figure, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [f"{name}.png"]
    panels = 1 + len(figure.hacks) + (figure.shown is not None)
    with Image.open(path) as picture:
        assert picture.width == 12 + panels * 204
    assert path.stat().st_size < 60_000


def test_a_hack_that_scores_less_is_refused(tmp_path):
    figure = figures()["jpeg"]()
    worse = Panel("worse", figure.honest.pixels, {"jpeg": figure.honest.scores["jpeg"] - 1})
    with pytest.raises(SystemExit, match="'worse' has jpeg"):
        write(dataclasses.replace(figure, hacks=(worse,)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_confetti_leaves_the_objects_as_they_were():
    picture = rendered("a red circle left of a blue square", 0)
    kept = (confetti(picture) == picture).all(-1)
    assert kept[(picture != picture[0, 0]).any(-1)].all()
    assert 0.1 < kept.mean() < 0.9


def test_the_folder_is_needed():
    with pytest.raises(SystemExit):
        parser().parse_args([])
