"""The table of a bench and its plot."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from diffalign.exceptions import ConfigError
from diffalign.reports import bench_lines, bench_table, check_plot, held_out_table, save_calibration_plot

FIT = {
    "temperature": 0.25, "fitted": True, "error": 0.0456, "loss": 0.5,
    "bins": [{"predicted": 0.6, "observed": 0.55, "count": 6}, {"predicted": 0.9, "observed": 0.97, "count": 4}],
}  # fmt: skip
BENCHED: dict[str, Any] = {
    "name": "scene:form=graded", "dimension": "overall", "comparisons": 10, "ties": 3, "equal": 2, "prompts": 9,
    "accuracy": {"value": 0.857, "low": 0.6, "high": 0.95}, "accuracy_with_ties": 0.7, "tie_threshold": 0.1,
    "calibration": FIT, "unscored": {"it is [black]": 4}, "confidence": 0.9,
}  # fmt: skip


def printed(table: Any, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_table_says_all():
    text = printed(bench_table([BENCHED, BENCHED | {"accuracy": None, "calibration": FIT | {"fitted": False}}]))
    for part in ("90 %", "interval", "85.7 %", "60.0 to 95.0", "70.0 %", "0.046", "0.25 given"):
        assert part in text
    assert bench_lines([BENCHED]) == [
        "scene:form=graded: 4 not scored: it is [black]",
        "scene:form=graded: 2 of equal reward",
    ]


def test_table_names_a_few_reasons_and_counts_the_rest():
    lines = bench_lines([BENCHED | {"unscored": {f"reason {each}": 2 for each in range(5)}}])
    assert lines[2] == "scene:form=graded: 2 not scored: reason 2" and not any("reason 3" in line for line in lines)
    assert lines[3] == "scene:form=graded: 4 more not scored; --json has the reasons"
    assert max(map(len, bench_lines([BENCHED | {"unscored": {"so " * 100: 1}}]))) < 200


def test_a_terminal_of_80_columns_keeps_names_readable():
    long = BENCHED | {"name": "learned:path=/home/me/experiments/runs/shapes_reward-20260101-120000"}
    text = printed(bench_table([long, BENCHED]), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "60.0 to 95.0" in text and "scene:form=graded" in text and "…" not in text and "/home" not in text
    assert "learned:path=" in text


def test_held_out_table():
    row = {"accuracy": 0.9, "accuracy_with_ties": 0.8, "comparisons": 7, "ties": 1, "calibration_error": 0.1}
    assert all(part in printed(held_out_table({"VQ": row})) for part in ("VQ", "90.0 %", "80.0 %", "0.100"))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_is_a_picture_and_whole(ending, tmp_path):
    path = tmp_path / f"plot.{ending}"
    save_calibration_plot(path, [BENCHED, BENCHED | {"name": "<other> & co"}])
    if ending == "png":
        with Image.open(path) as picture:
            assert min(picture.size) >= 500
            assert len(picture.convert("RGB").getcolors(10**6)) > 10
    else:
        assert "<svg" in path.read_text() and "calibrated" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_where_plots_go(tmp_path):
    check_plot(tmp_path / "x.PNG")
    with pytest.raises(ConfigError, match=r"--plot: must end in \.png or \.svg, got x\.pdf"):
        check_plot(tmp_path.relative_to(tmp_path) / "x.pdf")
    with pytest.raises(ConfigError, match=r"--plot: .*nowhere: no such folder"):
        check_plot(tmp_path / "nowhere" / "x.png")
