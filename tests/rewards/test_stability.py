"""The stability reward: what stands and what does not, in each form, and of whatever shapes come."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.reward_figures import reward_figures
from diffalign.exceptions import ConfigError, DataError, MissingExtraError
from diffalign.rewards import Sample, StabilityReward, load_reward, stability
from diffalign.rewards.wire_media import pack_medium, read_medium
from diffalign.sim import Mesh, Voxels, glb_of, read_mesh
from tests.sim.solids import revolved


def table() -> np.ndarray:
    grid = np.zeros((16, 16, 16), dtype=bool)
    grid[2:14, 3:13, 9:11] = True
    for x in (3, 11):
        for y in (4, 10):
            grid[x : x + 2, y : y + 2, :9] = True
    return grid


def gallows() -> np.ndarray:
    grid = np.zeros((16, 16, 16), dtype=bool)
    grid[1:3, 7:9, :12] = True
    grid[1:16, 7:9, 12:15] = True
    return grid


def box(x: float, y: float, z: float) -> Mesh:
    made = trimesh.creation.box((x, y, z))
    return Mesh.of(made.vertices, made.faces)


def test_what_stands_and_what_does_not():
    grids = torch.tensor(np.stack([table(), gallows()]))[:, None].float()
    assert load_reward("stability")(grids).tolist() == [1.0, 0.0]
    tilt = load_reward("stability", form="tilt")(grids)
    assert -1 < tilt[0] <= 0 and tilt[1] < -40  # it comes to rest on its beam
    margin = load_reward("stability", form="margin")(grids)
    assert margin[0] > 0.2 and margin[1] < 0


def test_one_shape_in_every_form_has_one_score(tmp_path):
    grid = gallows()
    (tmp_path / "gallows.glb").write_bytes(glb_of(Voxels.of(grid)))
    surface = Voxels.of(grid).surface()
    forms = [
        grid, grid.astype(np.float32), torch.tensor(grid)[None], Voxels.of(grid), surface,
        trimesh.Trimesh(surface.vertices, surface.faces, process=False), read_mesh(tmp_path / "gallows.glb"),
    ]  # fmt: skip
    reward = load_reward("stability", form="tilt")
    output = reward.score([Sample(form) for form in forms])
    assert output.reasons == (None,) * len(forms)
    torch.testing.assert_close(output.values, output.values[:1].expand(len(forms)), atol=0.05, rtol=0)


def test_components_are_what_can_be_worked_out_by_hand():
    output = StabilityReward().score([Sample(box(0.2, 0.2, 1.0))])
    parts = {name: value.item() for name, value in output.components.items()}
    assert parts["margin"] == pytest.approx(0.1)
    assert parts["critical_angle"] == pytest.approx(math.degrees(math.atan(0.1 / 0.5)))
    assert (parts["stands"], parts["pieces"], parts["exact"]) == (1.0, 1.0, 1.0)
    assert parts["tilt"] < 0.1


@pytest.mark.parametrize("mode", ["exact", "dso"])
def test_the_tilt_beside_the_label_is_that_of_the_shape_at_rest(mode):
    stands, tilt = (StabilityReward(form=form, mode=mode).score([Sample(gallows())]) for form in ("stands", "tilt"))
    assert stands.values.tolist() == [0.0]
    assert {name: value.item() for name, value in stands.components.items()} == {
        name: value.item() for name, value in tilt.components.items()
    }
    assert stands.components["tilt"].item() > 40  # the simulation is decided at 30


def test_parts_that_do_not_touch_are_one_body_or_fall():
    grid = table()
    grid[7, 7, 15] = True  # it floats above the table
    assert load_reward("stability")([grid]).tolist() == [1.0]
    for form, value in (("stands", 0.0), ("tilt", -180.0)):
        assert load_reward("stability", form=form, pieces="fall")([grid]).tolist() == [value]
        assert load_reward("stability", form=form, pieces="fall")([table()]).item() > -1
    for gap, value in ((-0.05, 1.0), (0.0, 1.0), (0.1, 0.0)):  # as most files have them, parts share no vertex
        base, top = box(1, 1, 0.5), box(0.3, 0.3, 0.5)
        vertices = np.concatenate([base.vertices, top.vertices + np.array([0.02, 0.07, 0.5 + gap])])
        stack = Mesh.of(vertices, np.concatenate([base.faces, top.faces + len(base.vertices)]))
        assert load_reward("stability", pieces="fall")([stack]).tolist() == [value]
    with pytest.raises(ConfigError, match=r"pieces: fall says nothing of a margin"):
        load_reward("stability", form="margin", pieces="fall")


def test_the_axis_that_points_up(tmp_path):
    made = trimesh.creation.box((0.05, 1.0, 1.0))  # upright on its edge along y; on its side it lies flat
    made.export(tmp_path / "plate.ply")
    tall = box(1.0, 0.02, 0.3)
    assert load_reward("stability", form="margin")([tall]).item() == pytest.approx(0.01)
    assert load_reward("stability", form="margin", up="y")([tall]).item() == pytest.approx(0.15)
    mesh = read_mesh(tmp_path / "plate.ply")
    assert load_reward("stability", form="margin", up="x")([mesh]).item() == pytest.approx(0.5)


@pytest.mark.parametrize("mode", ["exact", "dso"])
@pytest.mark.parametrize(("form", "worst"), [("stands", 0.0), ("tilt", -180.0), ("margin", -1.0)])
def test_a_grid_without_a_filled_cell_is_as_bad_as_can_be(form, worst, mode):
    empty = torch.zeros(1, 16, 16, 16)
    reward = load_reward("stability", form=form, mode=mode)
    output = reward.score([Sample(each) for each in (empty, empty[0].numpy(), Voxels(np.zeros((2, 2, 2), dtype=bool)))])
    assert output.reasons == (None,) * 3 and output.values.tolist() == [worst] * 3 == [reward.spec.range[0]] * 3
    parts = {name: values[0].item() for name, values in output.components.items()}
    simulated = {"stands": 0.0, "tilt": 180.0, "rotation": 180.0} if form != "margin" else {}
    assert {name: value for name, value in parts.items() if not math.isnan(value)} == simulated | {
        "margin": -1.0, "critical_angle": -90.0, "pieces": 0.0,
    }  # fmt: skip
    assert set(parts) == set(StabilityReward.components)


def test_an_empty_grid_comes_to_another_process_as_it_is():
    packed = pack_medium(Voxels.of(np.zeros((2, 3, 4)), allow_empty=True))
    assert not read_medium(packed.facts, packed.arrays).occupied.any()


def test_a_model_that_draws_nothing_in_place_of_what_topples_is_no_better():
    prompts = [f"shape {number}" for number in range(10)]
    base = [table()] * 4 + [gallows()] * 6
    reward = StabilityReward()
    sides = [
        reward.score([Sample(grid) for grid in grids]) for grids in (base, [table()] * 4 + [np.zeros((16, 16, 16))] * 6)
    ]
    found = reward_figures(reward.spec, (sides[0], sides[1]), prompts, EvaluationConfig(resamples=100))
    assert (found["scored"], found["unscored"], found["reasons"]) == (10, 0, {})
    assert found["base_mean"] == found["aligned_mean"] == pytest.approx(0.4)
    assert (found["wins"], found["ties"], found["losses"]) == (0, 10, 0)
    parts = found["components"]
    assert all(
        parts[name]["scored"] == 10 for name in ("stands", "tilt", "rotation", "margin", "critical_angle", "pieces")
    )
    assert parts["tilt"]["difference"] > 60 and parts["margin"]["difference"] < -0.4
    assert parts["pieces"]["aligned_mean"] == pytest.approx(0.4)


def test_what_cannot_be_judged_has_a_reason_and_spares_the_rest():
    flat = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    media = [np.full((4, 4, 4), math.nan), flat, np.zeros((4, 4)), "a.glb", table()]
    output = load_reward("stability").score([Sample(medium) for medium in media])
    assert output.values.isnan().tolist() == [True] * 4 + [False]
    for reason, said in zip(output.reasons, ("finite", "flat", "must be", "read_mesh(path)"), strict=False):
        assert reason is not None and said in reason


def test_the_authors_recipe_judges_by_the_whole_rotation():
    authors = load_reward("stability", mode="dso", form="tilt")
    assert authors.score([Sample(gallows())]).values.item() < -40
    output = authors.score([Sample(table())])
    assert output.values.item() == pytest.approx(-output.components["rotation"].item())
    assert output.components["seconds"].item() == 10.0


def hollow_box() -> tuple[np.ndarray, np.ndarray]:
    """A hollow box that reaches beyond the massive block below it, and the same with a massive box: this one topples."""
    solid = np.zeros((16, 16, 16), dtype=bool)
    solid[2:7, 4:12, :6] = True
    solid[2:14, 4:12, 6:14] = True
    shell = solid.copy()
    shell[3:13, 5:11, 7:13] = False
    return shell, solid


@pytest.mark.parametrize("mode", ["exact", "dso"])
@pytest.mark.parametrize("form", ["stands", "tilt", "margin"])
def test_a_shell_is_weighed_as_the_solid_that_it_closes_in(form, mode):
    shell, solid = hollow_box()
    opened = shell.copy()
    opened[8, 8, 13] = False  # one cell of the lid
    as_drawn = load_reward("stability", form=form, mode=mode)([shell, opened, solid]).tolist()
    filled = load_reward("stability", form=form, mode=mode, filled=True)([shell, opened, solid]).tolist()
    assert filled == [as_drawn[2], as_drawn[1], as_drawn[2]]
    if mode == "exact":
        assert as_drawn[0] > as_drawn[2]
    elif form == "tilt":  # MuJoCo's legacy mass counts the hollow's walls the wrong way round: it topples as the solid
        assert as_drawn[0] != as_drawn[2]
    if form == "margin":  # centre of mass of two boxes, to the edge of the block, over the longest side
        assert filled[0] == pytest.approx((7 - (240 * 4.5 + 768 * 8) / 1008) / 14)
        assert as_drawn[0] == pytest.approx((7 - (240 * 4.5 + 408 * 8) / 648) / 14)


def test_filling_hollows_changes_no_mesh():
    surface = Voxels.of(hollow_box()[0]).surface()
    assert (
        len({load_reward("stability", form="margin", filled=filled)([surface]).item() for filled in (False, True)}) == 1
    )


@pytest.mark.parametrize(("sides", "rest"), [(32, 1.0), (512, 0.0)])
def test_a_log_that_still_rolls_when_the_time_is_up_is_not_at_rest(sides, rest):
    vertices, faces = revolved([(0.2, 0.0), (0.2, 1.0)], sides)
    parts = StabilityReward(form="tilt").score([Sample(Mesh.of(vertices[:, [2, 1, 0]] * [1, -1, 1], faces))]).components
    assert (parts["at_rest"].item(), parts["seconds"].item() == 5.0) == (rest, not rest)
    assert (parts["tilt"].item() > 20) == (not rest)


def test_version_changes_with_what_changes_the_number():
    told = [
        {},
        {"mode": "dso"},
        {"threshold": 10},
        {"nudge": 0},
        {"seed": 1},
        {"pieces": "fall"},
        {"up": "y"},
        {"filled": True},
    ]
    assert len({load_reward("stability", **options).spec.version for options in told}) == len(told)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"form": "x"}, "form"), ({"mode": "x"}, "mode"), ({"threshold": 0}, "threshold"), ({"nudge": 45}, "nudge"),
        ({"pieces": "x"}, "pieces"), ({"up": "w"}, "up"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(options, named):
    with pytest.raises(ConfigError, match=rf"stability\.{named}"):
        load_reward("stability", **options)


def test_extra_that_is_missing(monkeypatch):
    monkeypatch.setattr(stability, "_installed", lambda name: name != "mujoco")
    with pytest.raises(MissingExtraError, match=r'needs mujoco; install with: pip install "diffalign\[sim\]"'):
        load_reward("stability")


def test_paths_and_scenes_are_told_how_to_make_a_shape():
    scene = trimesh.Scene([trimesh.creation.box((1, 1, 1))])
    output = load_reward("stability").score([Sample("table.glb"), Sample(scene), Sample(box(1, 1, 1))])
    assert torch.isnan(output.values).tolist() == [True, True, False]
    assert "diffalign.sim.read_mesh(path)" in output.reasons[0]
    assert "scene.to_geometry()" in output.reasons[1]
    with pytest.raises(DataError, match=r"the path 'table.glb'; .*read_mesh"):
        load_reward("stability")("table.glb")
