"""What the page is made of: the terminal table, the choice of examples, numbers, charts."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from diffalign.reports import evaluation_table
from diffalign.reports.charts import Line, draw_chart, nice_ticks, running_mean
from diffalign.reports.comparison import comparison_rows
from diffalign.reports.numbers import finite, scale_for
from diffalign.reports.run_folder import hide_paths
from diffalign.reports.selection import choose_examples
from tests.reports.synthetic_run import GEOMETRY, REWARDS, SUMMARY


def table_text(summary: dict) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(evaluation_table(summary))
    return console.file.getvalue()


def test_no_losses_is_said():
    records = [{"rewards": {"scene": [0.0, 1.0]}}, {"rewards": {"scene": [1.0, 1.0]}}]
    wins, losses, unchanged = choose_examples(records, "scene")
    assert (wins.heading, losses.heading) == ("Wins: 1 prompt", "Losses: none")
    assert unchanged.heading == "Unchanged: 1 prompt"


def test_several_pictures_of_a_prompt_are_counted_as_pictures():
    records = [{"prompt": name, "rewards": {"scene": [0.0, 1.0]}} for name in ("a", "b", "a", "b")]
    assert choose_examples(records, "scene")[0].heading == "Wins: 4 pictures"
    assert choose_examples(records[:2], "scene")[0].heading == "Wins: 2 prompts"


def test_graded_scores_choose_the_largest():
    records = [{"id": index, "rewards": {"r": [0.0, (index - 20) / 10]}} for index in range(40)]
    wins, losses = choose_examples(records, "r")
    assert [row["id"] for row in wins.rows] == [39, 38, 37, 36, 35, 34]
    assert [row["id"] for row in losses.rows] == [0, 1, 2, 3, 4, 5]
    assert wins.rule == "the largest of 19"


def test_random_draw_is_the_same_each_time():
    records = [{"id": index, "rewards": {"r": [0.0, 1.0]}} for index in range(50)]
    assert choose_examples(records, "r") == choose_examples(records, "r")


def test_table_for_the_terminal():
    text = table_text(SUMMARY)
    for said in ("trained on", "not trained on", "50.0 %", "+10.5 points", "[+6.1, +14.9]", "10/24/6", "[52.0, 58.0]"):
        assert said in text
    assert "corrected score" in text and "scene.clean" in text and "diversity" in text
    assert "a tie counts half a win" in " ".join(
        table_text({**SUMMARY, "rewards": {"scene": REWARDS["scene"]}}).split()
    )


def test_table_of_shapes_has_the_yardstick_and_no_components():
    part = {"base_mean": 2.5, "aligned_mean": 1.25, "difference": -1.25, "low": -1.5, "high": -1.0}
    rewards = {"scene": {**REWARDS["scene"], "components": {"tilt": part}}}
    text = " ".join(table_text({**SUMMARY, "rewards": rewards, "geometry": GEOMETRY}).split())
    assert "two draws of the base model for one prompt 0.11" in text and "diversity within" in text
    assert "tilt" not in text


def test_table_calls_form_no_reward_and_gives_it_no_colour():
    summary = {**SUMMARY, "geometry": GEOMETRY}
    text = " ".join(table_text(summary).split())
    assert "higher is better in a reward; form: neither higher nor lower is better by itself" in text
    assert text.index("corrected score") < text.index(" form ") < text.index(" volume ")
    colours = {row.name: row.colour for row in comparison_rows(summary)}
    assert {colours[name] for name in ("diversity", "volume", "chamfer")} == {"form"}
    assert colours["scene"] == "rose"


def test_table_says_whose_word_trained_on_is():
    said = "trained on: as the config says"
    assert said in " ".join(table_text(SUMMARY).split())
    assert said not in " ".join(table_text({**SUMMARY, "rewards": {"jpeg": REWARDS["jpeg"]}}).split())


def test_table_takes_names_with_markup_and_empty_summaries():
    assert "[red]x" in table_text({"rewards": {"[red]x": REWARDS["scene"]}})
    assert "reward" in table_text({})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("zoo://shapes-sd/held_out", "zoo://shapes-sd/held_out"),
        ("stabilityai/sdxl", "stabilityai/sdxl"),
        ("12 pixels/second", "12 pixels/second"),
        ("/data/models/x y", "…/x y"),
        ("C:\\models\\x", "…/x"),
        ("in ~/models/x: no", "in …/x: no"),
        ("file:///home/a/b", "…/b"),
        ({"path": ["/a/b", 3]}, {"path": ["…/b", 3]}),
    ],
)
def test_hide_paths(text, shown):
    assert hide_paths(text) == shown


@pytest.mark.parametrize(
    ("percent", "low", "high", "change"),
    [(True, 0.061, 0.149, "+12.5 points"), (False, -0.5, 0.7, "+0.12"), (False, -5e3, 5e3, "+0")],
)
def test_decimals_follow_the_interval(percent, low, high, change):
    assert scale_for(percent, low, high).change(0.1249) == change


@pytest.mark.parametrize(
    ("unit", "limits", "shown"),
    [
        ("1", [0, 1], "60.5 %"),
        ("share of pictures", [0.0, 1.0], "60.5 %"),
        ("kB", [None, 0], "0.605"),
        ("1", [-1, 1], "0.605"),
    ],
)
def test_shares_are_written_in_percent(unit, limits, shown):
    assert shown in table_text({"rewards": {"r": {**REWARDS["scene"], "unit": unit, "range": limits}}})


def test_finite_takes_numbers_alone():
    assert [finite(value) for value in (1, 2.5)] == [1.0, 2.5]
    assert all(math.isnan(finite(value)) for value in (None, True, "1", math.inf, 10**400, []))


def test_chart_of_constant_single_and_huge_values():
    for points in ([(1.0, 0.0)], [(1.0, 5.0), (2.0, 5.0)], [(1.0, -1e300), (2.0, 1e300)], [(0.0, 1e-9), (9e6, 2e-9)]):
        svg = draw_chart([Line(points)], label="x < y")
        assert "nan" not in svg and "inf" not in svg and "x &lt; y" in svg


def test_ticks_and_running_mean():
    np.testing.assert_allclose(nice_ticks(0.03, 0.97, 5), [0.2, 0.4, 0.6, 0.8])
    assert running_mean([(0.0, 1.0), (1.0, math.nan), (2.0, 3.0), (3.0, 5.0)], 3) == [(0, 2), (2, 3), (3, 4)]


def test_import_brings_no_torch():
    code = "import sys, diffalign.reports; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
