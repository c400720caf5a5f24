"""The page of a run: what it says, what it never does, and what it says when parts are missing."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diffalign.exceptions import DataError
from diffalign.reports import read_run, write_report
from tests.reports.synthetic_run import GEOMETRY, REWARDS, make_picture, make_run, metrics_rows, write_json, write_lines


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The page of a whole run, for the tests that only read it."""
    return report_text(make_run(tmp_path_factory.mktemp("home")))


def report_text(run: Path) -> str:
    return write_report(run).read_text()


class Page(HTMLParser):
    """Collects what a browser would fetch or run, and checks that tags are closed in order."""

    EMPTY = ("meta", "img", "br", "line", "circle", "polyline", "hr", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)


def test_sections_come_in_order(text):
    page = Page(text)
    assert page.headings == [
        "Summary", "Before and after", "Curves", "Periodic samples", "Health events", "Resolved config", "Environment",
    ]  # fmt: skip


def test_page_needs_no_other_file(text):
    page = Page(text)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "http" not in text
    assert "@import" not in text and "url(" not in text


def test_no_machine_path_in_page(tmp_path):
    run = make_run(tmp_path)
    alarm = {
        "event": "alarm",
        "step": 59,
        "alarm": "x",
        "action": "warn",
        "message": "see /home/alice/runs/log.txt, please",
    }
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(alarm) + "\n")
    text = report_text(run)
    assert str(tmp_path) not in text and "/home/alice" not in text
    assert "see …/log.txt, please" in text
    assert "diffalign report runs/shapes-20250101-120000" in text


def test_relative_folder_gives_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(make_run(tmp_path))
    assert write_report(Path(".")) == Path("report.html")
    assert read_run(Path(".")).name == "shapes-20250101-120000"


def test_prompts_are_escaped(tmp_path):
    run = make_run(tmp_path, prompt="<script>alert('x')</script> \" onload=\"y")
    text = report_text(run)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "script" not in Page(text).tags


def test_summary_says_what_happened(text):
    assert "diffusion_dpo on zoo://shapes-sd: trained for 60 steps." in text
    rose = "scene rose from 50.0 % to 60.5 % on 40 held-out prompts: +10.5 points, 95 % interval +6.1 to +14.9."
    assert rose in text
    fell = "jpeg fell from −1.500 to −1.620 on 38 held-out prompts: −0.120, 95 % interval −0.150 to −0.090."
    assert fell in text
    assert "The interval includes zero: no clear change." in text  # of the corrected score
    assert "jpeg: 2 prompts not scored; by picture: no picture (2)" in text
    assert "The config names scene as what the model was trained towards; a rise" in text


def test_several_pictures_of_a_prompt_are_not_called_prompts(tmp_path):
    run = make_run(tmp_path)
    file = run / "evaluation/summary.json"
    summary = json.loads(file.read_text())
    summary |= {"prompts": 10, "pictures": 40}
    file.write_text(json.dumps(summary))
    text = report_text(run)
    assert "scene rose from 50.0 % to 60.5 % on 40 pictures of 10 held-out prompts: +10.5 points" in text
    assert "jpeg fell from −1.500 to −1.620 on 38 pictures of 10 held-out prompts" in text
    assert "2 pictures could not be scored" in text
    assert "jpeg: 2 pictures not scored" in text


def changed_summary(run: Path, **more: object) -> str:
    file = run / "evaluation/summary.json"
    write_json(file, json.loads(file.read_text()) | more)
    return report_text(run)


def test_shapes_are_held_against_two_draws_of_the_base_model(tmp_path):
    text = changed_summary(make_run(tmp_path), geometry=GEOMETRY)
    assert (
        "chamfer: aligned to base of the same prompt and seed 0.035, two draws of the base model for one prompt 0.11."
        in text
    )
    assert "seed (0.0079: the same, its surface sampled twice); two draws of the base model: 0.11" in text
    assert "diversity within fell from 0.400 to 0.360" in text
    assert "volume rose from 7.19 % to 7.49 %" in text
    assert "filled cell" not in text  # nothing was empty
    alone = {name: value for name, value in GEOMETRY.items() if name not in ("two_draws", "diversity_within")}
    text = changed_summary(make_run(tmp_path / "alone"), geometry=alone)
    assert "f_score: aligned to base of the same prompt and seed 0.8." in text and "two draws" not in text


@pytest.mark.parametrize("empty", [[0, 3], [1, 0]])
def test_empty_grids_are_seen(tmp_path, empty):
    text = changed_summary(make_run(tmp_path), geometry={**GEOMETRY, "empty": empty})
    noun = "shape" if empty[0] == 1 else "shapes"
    assert f"empty: {empty[0]} {noun} of the base model and {empty[1]} of the aligned one have no filled cell" in text
    Page(text)


@pytest.mark.parametrize("empty", [None, 3, [1], ["a", "b"], {}])
def test_damaged_geometry_is_passed_over(tmp_path, empty):
    text = changed_summary(make_run(tmp_path), geometry={**GEOMETRY, "empty": empty, "two_draws": 3, "volume": None})
    assert "filled cell" not in text and "two draws" not in text


def test_form_has_a_heading_of_its_own_and_is_neither_good_nor_bad(tmp_path):
    text = changed_summary(make_run(tmp_path), geometry=GEOMETRY)
    heading = text.index('<th scope="rowgroup"')
    assert text.count("rowgroup") == 1 and text.index('<th scope="row">corrected score') < heading
    assert heading < text.index('<th scope="row">volume')
    assert 'class="tag form">form</span><span>volume' in text
    for side in ("rose", "fell"):
        assert f'<span class="{side}">' not in text[heading : text.index("</table>", heading)]


def test_components_of_what_was_trained_on_are_folded(tmp_path):
    part = {"scored": 40, "base_mean": 2.5, "aligned_mean": 1.25, "difference": -1.25, "low": -1.5, "high": -1.0}
    rewards = {name: {**entry, "components": {f"{name}_part": part}} for name, entry in REWARDS.items()}
    text = changed_summary(make_run(tmp_path), rewards=rewards)
    Page(text)
    folded = text[text.index("<details><summary>Components of scene") :].split("</details>")[0]
    for said in ("scene_part", "2.50", "1.25", "−1.25", "−1.50 to −1.00"):
        assert said in folded
    assert "jpeg_part" not in text  # nothing was learnt from it


def test_unfinished_run_says_so(tmp_path):
    run = make_run(tmp_path)
    write_lines(run / "metrics.jsonl", metrics_rows()[:20])
    assert "trained for 20 of 60 steps; it had not finished" in report_text(run)


def test_wins_and_losses_are_both_shown(text):
    assert "Wins: 6 of 10 prompts" in text and "Losses: 6 prompts" in text
    assert "drawn at random from 10, seed 0" in text
    assert text.count('class="card wins"') == 6 and text.count('class="card losses"') == 6


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("environment.json", "environment.json is absent"),
        ("metrics.jsonl", "No curves: metrics.jsonl is absent"),
        ("evaluation/summary.json", "evaluation/summary.json is absent"),
        ("evaluation/records.jsonl", "evaluation/records.jsonl is absent"),
    ],
)
def test_missing_part_is_said_in_its_section(tmp_path, missing, said):
    run = make_run(tmp_path)
    (run / missing).unlink()
    assert said in report_text(run)


def test_config_alone_makes_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    text = report_text(tmp_path)
    for said in ("No evaluation", "No pictures to compare", "No curves", "No samples", "Unknown: metrics.jsonl"):
        assert said in text
    Page(text)


def test_cut_off_last_line_is_left_out(tmp_path):
    run = make_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    report = read_run(run)
    assert len(report.steps) == 60 and report.problems == {}


def test_damaged_lines_and_files_are_reported(tmp_path):
    run = make_run(tmp_path)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "{broken", "[1]", *lines[1:]]) + "\n")
    (run / "evaluation/summary.json").write_text('{"prompts": 4')
    (run / "evaluation/base/0000.png").write_bytes(b"no picture")
    text = report_text(run)
    assert "2 of 67 lines of metrics.jsonl are damaged and left out." in text
    assert "evaluation/summary.json is damaged" in text
    assert read_run(run).steps is not None


def test_nulls_and_bad_numbers_break_nothing(tmp_path):
    run = make_run(tmp_path)
    rows = [
        {"event": "step", "step": step, "loss": value}
        for step, value in enumerate([0.7, math.nan, math.inf, None, "x"])
    ]
    rows.append(
        {"event": "samples", "step": 3, "rewards": {"scene": {"mean": None}, "jpeg": None}, "diversity": math.nan}
    )
    write_lines(run / "metrics.jsonl", rows)
    entry = dict.fromkeys(REWARDS["scene"])
    write_json(
        run / "evaluation/summary.json", {"rewards": {"scene": entry, "jpeg": {**REWARDS["jpeg"], "low": math.nan}}}
    )
    records = [{"prompt": None, "rewards": {"scene": [None, 1.0], "jpeg": None}, "base": 3}, {"prompt": "p"}, {}]
    write_lines(run / "evaluation/records.jsonl", records)
    text = report_text(run)
    assert "scene could not be compared: base -, aligned -." in text
    assert "loss is not finite here; 2 steps in all" in text
    assert "Wins: none" in text and "Not scored: 3 prompts" in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower()
    Page(text)


def test_pictures_outside_the_run_are_not_read(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "secret.png").write_bytes(make_picture(32))
    record = {
        "prompt": "p",
        "base": "../secret.png",
        "aligned": str(tmp_path / "secret.png"),
        "rewards": {"scene": [0, 1]},
    }
    write_lines(run / "evaluation/records.jsonl", [record])
    assert report_text(run).count("picture missing") == 2


def test_large_pictures_are_scaled_down(tmp_path):
    run = make_run(tmp_path, pixels=400)
    text = report_text(run)
    assert "data:image/jpeg" in text and "class=pixelated" not in text
    assert len(text) < 6_000_000  # of pure noise, the worst there is


def test_small_pictures_keep_hard_edges(text):
    assert "class=pixelated" in text


def test_first_and_last_sheets_are_shown(text):
    shown = [int(step) for step in re.findall(r"<b>step (\d+)</b>", text)]
    assert shown[0] == 10 and shown[-1] == 60 and len(shown) == 6
    assert "6 of 11 sheets" in text


def test_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    (run / "report.html").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffalign.reports.page.os.replace", fail)
    with pytest.raises(DataError, match=r"report\.html cannot be written: No space left on device"):
        write_report(run)
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob("*.partial")) and not list(run.glob(".*.partial"))


def test_only_a_run_folder_will_do(tmp_path):
    with pytest.raises(DataError, match=r"is not a run folder: it has no config\.yaml; give a folder that"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="is not a run folder: it does not exist"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("a: [1")
    with pytest.raises(DataError, match=r"config\.yaml cannot be read as YAML"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("just text")
    with pytest.raises(DataError, match="must hold a mapping of settings, got str"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("metric", "title"),
    [("label_accuracy", "Label accuracy"), ("group_accuracy", "Group accuracy"), ("accuracy", "Set accuracy")],
)
def test_curves_of_methods_without_pairs(tmp_path, metric, title):
    run = make_run(tmp_path)
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace('"pair_accuracy"', f'"{metric}"'))
    page = report_text(run)
    assert title in page and "Pair accuracy" not in page
