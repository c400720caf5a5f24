"""Scores to records: which are kept, which are left out and why, and that training reads them."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.data import Pairing, pair_records, read_records
from diffalign.data.judged import reward_columns, weights_of
from diffalign.exceptions import ConfigError, DataError
from diffalign.objectives.smpo import smoothed_preference
from tests.data.judged_folder import by_reward, made, scored
from tests.data.pictures import write_rows

CHECKOUT = Path(__file__).parents[2]


def sides(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["chosen"].removesuffix(".png"), row["rejected"].removesuffix(".png")) for row in rows]


def test_best_and_worst_of_each_prompt(tmp_path):
    rows, done = made(by_reward(tmp_path, [0.2, 0.9, 0.5], [3.0, 1.0]))
    assert sides(rows) == [("p1", "p0"), ("p3", "p4")]
    assert [(row["reward_chosen"], row["reward_rejected"]) for row in rows] == [(0.9, 0.2), (3.0, 1.0)]
    assert (done.kept, done.dropped) == (2, {})


def test_all_pairs(tmp_path):
    rows, done = made(by_reward(tmp_path, [0.2, 0.9, 0.2]), every=True)
    assert sides(rows) == [("p1", "p0"), ("p1", "p2")]
    assert done.dropped == {"ties": 1}
    assert len({row["id"] for row in rows}) == 2


def test_ties_win_nothing_and_are_counted(tmp_path):
    """argmax and argmin of equal rewards are one picture, and no order of files is a preference."""
    rows, done = made(by_reward(tmp_path, [1.0, 1.0, 1.0], [0.0, 1.0]))
    assert sides(rows) == [("p4", "p3")]
    assert done.dropped == {"ties": 1}


def test_which_of_equally_good_ones_is_chosen_is_drawn(tmp_path):
    source = by_reward(tmp_path, *[[1.0, 1.0, 0.0]] * 40)
    first = [int(row["chosen"][1:-4]) % 3 for row in made(source)[0]]
    assert 5 < sum(first) < 35  # neither always the first nor always the second
    assert first == [int(row["chosen"][1:-4]) % 3 for row in made(source)[0]]
    assert first != [int(row["chosen"][1:-4]) % 3 for row in made(source, seed=1)[0]]


def test_margin_unscored_and_single_pictures(tmp_path):
    source = by_reward(tmp_path, [0.5, 0.6], [0.0, 0.5], [None, 1.0], [None, 0.0, 1.0])
    rows, done = made(source, margin=0.5)
    assert sides(rows) == [("p3", "p2"), ("p8", "p7")]
    assert done.dropped == {
        "below the margin": 1, "prompts with fewer than two scored pictures": 1, "unscored pictures": 2,
    }  # fmt: skip


def test_soft_preferences_are_smpo_s(tmp_path):
    rows, done = made(by_reward(tmp_path, [0.2231, 0.2104], [0.2410, 0.1985]), smooth=(0.1, 0.3))
    reward = torch.tensor([[0.2231, 0.2104], [0.2410, 0.1985]], dtype=torch.float64)
    expected = smoothed_preference(reward, low=0.1, high=0.3)
    assert [row["preference"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-12)
    read = list(read_records(done.file))
    assert [record.preference for record in read] == pytest.approx(expected.tolist())


def test_soft_preferences_with_the_authors_range_are_the_card_s(tmp_path):
    span = (0.11543526500463486, 0.28201571106910706)
    groups = [[0.2231, 0.2104], [0.2187, 0.2179], [0.2410, 0.1985], [0.2050, 0.2049]]
    rows, _ = made(by_reward(tmp_path, *groups), smooth=span)
    assert [row["preference"] for row in rows] == pytest.approx([0.519051, 0.501201, 0.563439, 0.500150], abs=5e-7)


def test_several_rewards(tmp_path):
    columns = [{"r": 0.0, "s": 10.0}, {"r": 1.0, "s": 0.0}, {"r": 0.5, "s": None}]
    source = scored(tmp_path, {"a": columns})
    assert sides(made(source, rewards={"r": 1.0, "s": 0.5})[0]) == [("p1", "p0")]
    assert sides(made(source, rewards={"r": 0.5, "s": 1.0})[0]) == [("p0", "p1")]
    assert made(source, rewards={"r": 1.0, "s": 0.5})[1].dropped == {"unscored pictures": 1}


def test_pareto(tmp_path):
    columns = [{"r": 1.0, "s": 1.0}, {"r": 1.0, "s": 2.0}, {"r": 2.0, "s": 0.0}, {"r": 1.0, "s": 2.0}]
    rows, done = made(scored(tmp_path, {"a": columns}), rewards={"r": 1.0, "s": 1.0}, aggregate="pareto")
    assert sides(rows) == [("p1", "p0"), ("p3", "p0")]
    assert done.dropped == {"ties": 1, "pairs that rewards disagree on": 3}


def test_pareto_sees_what_float32_does_not(tmp_path):
    columns = [{"r": 1.0, "s": 0.1}, {"r": 1.0, "s": 0.1 + 1e-12}]
    rows, _ = made(scored(tmp_path, {"a": columns}), rewards={"r": 1.0, "s": 1.0}, aggregate="pareto")
    assert sides(rows) == [("p1", "p0")]


def test_groups_with_the_share_of_rivals_beaten(tmp_path):
    columns = [{"r": 3.0, "s": 1.0}, {"r": 2.0, "s": 2.0}, {"r": 1.0, "s": 0.0}, {"r": None, "s": 0.0}]
    source = scored(tmp_path, {"a": columns, "b": columns[:1]})
    rows, done = made(source, "groups", rewards={"r": 1.0, "s": 1.0}, aggregate="votes")
    assert [row["rewards"] for row in rows] == [[0.75, 0.75, 0.0, None]]
    assert done.dropped == {"prompts with fewer than two scored pictures": 1}
    (record,) = read_records(done.file, "groups")
    assert record.rewards == pytest.approx((0.75, 0.75, 0.0, math.nan), nan_ok=True)
    assert {path.name for path in record.items} == {f"p{number}.png" for number in range(4)}


def test_groups_of_equal_rewards_are_kept_and_noted(tmp_path):
    _, done = made(by_reward(tmp_path, [1.0, 1.0], [0.0, 1.0]), "groups")
    assert (done.kept, done.notes) == (2, {"groups with equal rewards": 1})


def test_labels_by_threshold(tmp_path):
    rows, done = made(by_reward(tmp_path, [0.9, 0.5], [0.1, 0.8]), "labelled", good=0.8, bad=0.1)
    assert [(row["item"], row["label"]) for row in rows] == [("p0.png", "good"), ("p2.png", "bad"), ("p3.png", "good")]
    assert done.dropped == {"neither good nor bad": 1}
    assert [record.label for record in read_records(done.file, "labelled")] == [1, -1, 1]


@pytest.mark.parametrize(
    ("values", "share", "good", "bad"),
    [
        ([4.0, 3.0, 2.0, 1.0], 0.25, {"p0"}, {"p3"}),
        ([4.0, 3.0, 2.0, 1.0], 0.5, {"p0", "p1"}, {"p2", "p3"}),
        ([4.0, 4.0, 2.0, 1.0], 0.25, set(), {"p3"}),  # of equal ones on both sides of a cut none
        ([5.0, 4.0, 4.0, 4.0], 0.5, {"p0"}, set()),
    ],
)
def test_labels_by_share(tmp_path, values, share, good, bad):
    rows, _ = made(by_reward(tmp_path, values), "labelled", share=share)
    assert {row["id"] for row in rows if row["label"] == "good"} == good
    assert {row["id"] for row in rows if row["label"] == "bad"} == bad


def test_a_share_is_not_rounded_down(tmp_path):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    _, done = made(by_reward(tmp_path, [float(number) for number in range(100)]), "labelled", share=0.29)
    assert done.notes == {"good": 29, "bad": 29}


def test_experts_are_the_best_of_all_prompts(tmp_path):
    rows, done = made(by_reward(tmp_path, [0.1, 0.9], [0.8, 0.2], [None, 0.7]), "experts", top=3)
    assert [row["id"] for row in rows] == ["p1", "p2", "p5"]
    assert {row["label"] for row in rows} == {"good"}
    assert done.dropped == {"below the top": 2, "unscored pictures": 1}
    assert [record.label for record in read_records(done.file, "labelled")] == [1, 1, 1]


def test_of_equal_experts_the_last_places_are_drawn(tmp_path):
    source = by_reward(tmp_path, [1.0] * 40)
    taken = [{row["id"] for row in made(source, "experts", top=10, seed=seed)[0]} for seed in (0, 0, 1)]
    assert taken[0] == taken[1] != taken[2]
    assert taken[0] != {f"p{number}" for number in range(10)}


def test_paths_start_at_what_is_written(tmp_path):
    source = by_reward(tmp_path / "drawn", [0.0, 1.0])
    for out in (tmp_path / "a.jsonl", tmp_path / "deep" / "b.parquet", tmp_path / "folder"):
        done = pair_records(source, out, Pairing("pairs", {"r": 1.0}))
        (record,) = read_records(out)
        assert [Path(path).resolve() for path in record.items] == [
            tmp_path / "drawn" / "p1.png", tmp_path / "drawn" / "p0.png",
        ]  # fmt: skip
        assert done.file == (out if out.suffix else out / "metadata.jsonl")


def test_where_the_pictures_are_from(tmp_path):
    rows, _ = made(scored(tmp_path, {"a": [{"r": 0.0, "source": "m1"}, {"r": 1.0, "source": "m2"}]}))
    assert (rows[0]["source_chosen"], rows[0]["source_rejected"]) == ("m2", "m1")


def test_killed_outright_and_gone_on_with(tmp_path):
    """kill -9 when all rows are written, but not yet under the name that readers find."""
    source = by_reward(tmp_path, [0.0, 1.0])
    code = (
        "import os, signal, sys; from pathlib import Path; from diffalign.data import Pairing, pair_records\n"
        "os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pair_records(Path(sys.argv[1]), Path(sys.argv[2]), Pairing('pairs', {'r': 1.0}))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out.jsonl")]
    before = set(tmp_path.iterdir())
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == -signal.SIGKILL
    assert len(set(tmp_path.iterdir()) - before) == 1
    assert sides(made(source)[0]) == [("p1", "p0")]
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out.jsonl"}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("groups", {"margin": 0.1}, "--margin: is of --kind pairs"),
        ("pairs", {"margin": -1.0}, "--margin: must not be negative"),
        ("pairs", {"good": 1.0}, "are of --kind labelled"),
        ("pairs", {"smooth": (1.0, 1.0)}, "--smooth: must be LOW,HIGH"),
        ("groups", {"aggregate": "pareto"}, "--aggregate pareto gives pairs without a gap"),
        ("pairs", {"aggregate": "votes", "rewards": {"r": 2.0}}, "leave out the weights"),
        ("pairs", {"rewards": {}}, "give either --reward or --votes"),
        ("labelled", {}, "say what is good and what bad"),
        ("labelled", {"good": 0.5, "bad": 0.5}, "--bad: must be below --good"),
        ("labelled", {"share": 0.7}, "--share: must be above 0 and at most 0.5"),
        ("labelled", {"share": 0.1}, "is less than one"),
        ("experts", {"top": 2}, "--top: must be below the 2 scored pictures, of which it takes the best; got 2"),
        ("experts", {}, "--top: must be below the 2 .* the default is 500; give --top N"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, kind, settings, says):
    with pytest.raises(ConfigError, match=says):
        made(by_reward(tmp_path, [0.0, 1.0]), kind, **settings)
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_is_written_where_nothing_comes_of_it(tmp_path):
    with pytest.raises(DataError, match=r"no pairs come of it \(ties: 1\); nothing was written"):
        made(by_reward(tmp_path, [1.0, 1.0]))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": " "}, "record 'x': has no prompt"),
        ({"r": "high"}, "record 'x': column 'r' must hold finite numbers"),
        ({"r": True}, "record 'x': column 'r' must hold finite numbers"),
        ({"file_name": "gone.png"}, "record 'x': there is no .*gone.png; paths start at"),
        ({"file_name": None}, "record 'x': names no picture"),
    ],
)
def test_bad_record_is_named(tmp_path, row, says):
    by_reward(tmp_path, [0.0, 1.0])
    good = {"id": "x", "file_name": "p0.png", "prompt": "a", "r": 1.0}
    source = write_rows(tmp_path / "scores.jsonl", [good | {"id": "y"}, good | row])
    with pytest.raises(DataError, match=says):
        made(source)


def test_column_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"no column 'rr'; columns of numbers: r; did you mean 'r'\?"):
        made(by_reward(tmp_path, [0.0, 1.0]), rewards={"rr": 1.0})


def test_picture_that_is_gone_and_was_unscored_is_left_out(tmp_path):
    source = by_reward(tmp_path, [0.0, 1.0, None])
    (tmp_path / "p2.png").unlink()
    rows, done = made(source, "groups")
    assert rows[0]["items"] == ["p0.png", "p1.png"]
    assert done.dropped == {"pictures that are not there": 1}


def test_input_and_earlier_output_are_not_overwritten(tmp_path):
    source = by_reward(tmp_path, [0.0, 1.0])
    pairing = Pairing("pairs", {"r": 1.0})
    with pytest.raises(ConfigError, match=r"--out: .* is what is read"):
        pair_records(source, source, pairing, overwrite=True)
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="is there already; give another file, or --overwrite"):
        pair_records(source, tmp_path / "out.jsonl", pairing)
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"must end in .jsonl or .parquet"):
        pair_records(source, tmp_path / "out.csv", pairing)


@pytest.mark.parametrize("out", ["p0.png/out.jsonl", "p0.png/deep/out.parquet", "p0.png/folder"])
def test_folder_that_cannot_be_made(tmp_path, out):
    with pytest.raises(ConfigError, match=r"--out: cannot make .*p0.png"):
        pair_records(by_reward(tmp_path, [0.0, 1.0]), tmp_path / out, Pairing("pairs", {"r": 1.0}))


def test_weights_and_columns(tmp_path):
    assert weights_of(["a=0.5", "b", "scene:form=graded", "jpeg:quality=80", "c=-2"], {"jpeg:quality=80"}) == {
        "a": 0.5, "b": 1.0, "scene:form=graded": 1.0, "jpeg:quality=80": 1.0, "c": -2.0,
    }  # fmt: skip
    for text in ("a=0", "a=nan", "a=inf"):
        with pytest.raises(ConfigError, match="a weight must be a finite number other than 0"):
            weights_of([text], ())
    with pytest.raises(ConfigError, match="a stands twice"):
        weights_of(["a", "a=2"], ())
    source = scored(tmp_path, {"p": [{"guidance_scale": 1.0, "r": 0.5, "versions": {"r": "1"}}]})
    assert reward_columns(source) == ["r"]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ([{"r": 3}, {"r": 4}], ["r"]),
        ([{"r": None}, {"r": 0.5}], ["r"]),
        ([{"r": None, "s": 1}, {"r": None, "s": 2.5}], ["s"]),
        ([{"r": 1.0, "s": True, "t": "x", "u": 1}, {"r": 2.0, "s": False, "t": 1.0, "u": "x"}], ["r"]),
        ([{"r": 1.0, "versions": "1.0"}], ["r"]),
        ([{"r": 1.0, "versions": {"tool": "1.0"}}], ["r"]),
        ([{"r": 1.0, "s": 2.0}, {"r": 1.0, "s": 2.0, "versions": {"s": "1", "r": None}}], ["s"]),
        ([{"seed": 1, "steps": 20, "guidance_scale": 1.0, "eta": 0.0, "resolution": 32, "best_of": 4}], []),
    ],
)
def test_columns_of_rewards(tmp_path, columns, found):
    assert reward_columns(scored(tmp_path, {"p": columns})) == found
