"""People's votes in the report and on the terminal."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from diffalign.reports import people_table, write_report
from diffalign.reports.people import people_notes, people_rows
from tests.reports.synthetic_run import make_run

RATES = {"prompts": 10, "votes": 13, "wins": 8, "ties": 2, "bad": 1, "losses": 2, "skipped": 2}
PEOPLE = {
    "confidence": 0.95, "resamples": 10000, "seed": 0, "pairs": 40,
    "all": RATES | {"win_rate": 0.675, "win_rate_low": 0.55, "win_rate_high": 0.8},
    "raters": {
        "<b>anna</b>": RATES | {"win_rate": 0.7, "win_rate_low": 0.4, "win_rate_high": 0.9},
        "ben": RATES | {"win_rate": 0.2, "win_rate_low": 0.1, "win_rate_high": 0.3},
    },
    "agreement": {"pairs": [{"raters": ["<b>anna</b>", "ben"], "common": 3, "agreement": 2 / 3, "kappa": 0.25}],
                  "alpha": 0.3, "comparisons": 3},
    "left": {"count": 6, "of": 10, "value": 0.6, "low": 0.31, "high": 0.83},
}  # fmt: skip


def test_rows_and_verdicts():
    rows = people_rows(PEOPLE)
    assert [(row.name, row.verdict) for row in rows] == [("", "rose"), ("<b>anna</b>", "unclear"), ("ben", "fell")]
    assert (rows[0].tally, rows[0].rate, rows[0].interval) == ("8 / 2 / 1 / 2", "67.5 %", "55.0 to 80.0")
    alone = PEOPLE | {"raters": {"ben": PEOPLE["raters"]["ben"]}}
    assert len(people_rows(alone)) == 1


def test_notes_say_how_it_was_counted():
    text = "; ".join(people_notes(PEOPLE))
    assert "10 of 40 held-out pairs judged by people who did not know" in text
    assert "a tie and both bad count half a win" in text
    assert "the same answer on 67 % of 3 pairs, Cohen's kappa 0.25" in text
    assert "60 % of these choices were the left picture (95 % interval 31 to 83)" in text
    three = PEOPLE | {"agreement": {"pairs": [{}, {}, {}], "alpha": None}}
    assert "Krippendorff's alpha undefined" in "; ".join(people_notes(three))


def test_the_page_shows_them(tmp_path):
    run = make_run(tmp_path)
    assert "<h3>People</h3>" not in write_report(run).read_text()
    (run / "evaluation" / "people.json").write_text(json.dumps(PEOPLE))
    text = write_report(run).read_text()
    assert "<h3>People</h3>" in text and "67.5 %" in text and "&lt;b&gt;anna&lt;/b&gt;" in text
    assert "<b>anna" not in text


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"all": 3}', '{"all": {"win_rate": "x"}, "left": {}, "agreement": []}', "{"]
)
def test_a_damaged_file_spoils_nothing(tmp_path, content):
    run = make_run(tmp_path)
    (run / "evaluation" / "people.json").write_text(content)
    assert "Before and after" in write_report(run).read_text()


def test_the_table_for_the_terminal():
    out = StringIO()
    Console(file=out, width=120).print(people_table(PEOPLE))
    assert "8/2/1/2" in out.getvalue() and "[55.0, 80.0]" in out.getvalue() and "<b>anna</b>" in out.getvalue()
