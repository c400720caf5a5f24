"""Worker processes: who crashes or hangs costs itself alone, and nothing goes by how many there are."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from diffalign.exceptions import ConfigError, MissingExtraError, ProcessLostError
from diffalign.sim import Mesh, Stability, read_mesh, simulate_many, simulate_stability
from tests.sim.damage import written
from tests.sim.solids import l_shape, solid, standing_box
from tests.sim.work import by_size, only_in_a_new_process

CHECKOUT = Path(__file__).parents[2]


def box_of_height(height: float) -> Mesh:
    return Mesh.of(*standing_box(50, 50, height))


def same(first: Stability, second: Stability) -> bool:
    return first.tilt == second.tilt and np.array_equal(first.pose, second.pose) and first.stable == second.stable


def test_answers_are_those_of_this_process_whatever_the_number_of_workers():
    shapes = [solid(name) for name in ("cone sheared by 1.3", "L 0.6", "cube at 15 degrees", "cone on its tip")]
    alone = [simulate_stability(shape, seed=3) for shape in shapes]
    for processes in (0, 1, 3):
        found = simulate_many(shapes, processes=processes, options={"seed": 3})
        assert all(same(each, there) for each, there in zip(found, alone, strict=True)), processes


def test_what_crashes_hangs_or_raises_costs_itself_alone(tmp_path):
    missing = tmp_path / "missing.obj"
    heights = [10, 101, 20, 102, 103, 104, 105, 30]
    done: list[tuple[int, int]] = []
    found = simulate_many(
        [*map(box_of_height, heights), missing],
        processes=2,
        limit=4.0,
        work=by_size,
        progress=lambda *counts: done.append(counts),
    )
    reasons = dict(zip([*heights, "missing"], (each.reason for each in found), strict=True))
    assert [reasons[height] for height in (10, 20, 30)] == [None] * 3
    assert all(each.stable for each, height in zip(found, heights, strict=False) if height < 100)
    assert "died (signal 6)" in reasons[101]
    assert "died (exit code 7)" in reasons[102]
    assert "not done after 4 s" in reasons[103]
    assert reasons[104] == "KeyError: 'nobody thought of this'"
    assert "memory" in reasons[105]
    assert str(missing) in reasons["missing"]
    assert all(each.stable is None and np.isnan(each.tilt) for each in found if each.reason)
    assert done[-1] == (9, 9)


def test_a_shape_whose_process_an_earlier_one_damaged_gets_a_new_process():
    found = simulate_many([box_of_height(10), box_of_height(20)], processes=1, work=only_in_a_new_process)
    assert [each.stable for each in found] == [True, True]


def test_the_reason_names_the_file(tmp_path):
    flat = tmp_path / "flat.obj"
    flat.write_bytes(written((standing_box(1, 1, 1)[0] * [1, 1, 0], standing_box(1, 1, 1)[1]), "obj"))
    (found,) = simulate_many([flat], processes=0)
    assert found.reason.startswith(f"{flat}: ")
    assert "flat" in found.reason


def test_files_are_read_with_their_axis(tmp_path):
    file = tmp_path / "l.stl"
    file.write_bytes(written(l_shape(0.9), "stl"))
    (standing,), (lying,) = (simulate_many([str(file)], processes=0, up=up) for up in ("auto", "y"))
    assert same(standing, simulate_stability(read_mesh(file)))
    assert (standing.stable, lying.stable) == (False, True)


@pytest.mark.usefixtures("unchecked_types")
def test_what_is_wrong_with_all_of_them_is_raised():
    for processes in (0, 1):
        with pytest.raises(MissingExtraError, match="needs a library"):
            simulate_many([box_of_height(106)], processes=processes, work=by_size)
        with pytest.raises(ConfigError, match="mode: must be one of exact, dso, got 'exakt'"):
            simulate_many([box_of_height(1)], processes=processes, options={"mode": "exakt"})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"options": {"treshold": 3}}, "options: .*treshold"),
        ({"processes": -1}, "processes: must be >= 0, got -1"),
        ({"limit": 0.0}, "limit: must be > 0 seconds, got 0"),
    ],
)
def test_settings_that_cannot_be(settings, told):
    with pytest.raises(ConfigError, match=told):
        simulate_many([box_of_height(1)], **settings)


def test_workers_that_cannot_start_are_an_error_and_no_loop(capfd):
    module = types.ModuleType("only_here")
    exec("def work(shape): return None", module.__dict__)
    sys.modules["only_here"] = module
    try:
        with pytest.raises(ProcessLostError, match=r"cannot start \(exit code 1"):
            simulate_many([box_of_height(1)] * 4, processes=2, work=module.work)
    finally:
        del sys.modules["only_here"]
    assert "only_here" in capfd.readouterr().err


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from diffalign.sim import Voxels, simulate_many\nsimulate_many([Voxels.of([[[1.0]]])] * 3, processes=1)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def test_of_nothing_there_is_nothing():
    assert simulate_many([]) == []
