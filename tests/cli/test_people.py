"""`annotate`, and `eval` with people: what they print, what they refuse, how they end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request

import pytest

from diffalign.annotation import Plan, VoteFile, read_plan, write_plan
from diffalign.annotation.ballot import Ballot
from diffalign.annotation.comparisons import read_comparisons
from diffalign.data import read_records
from diffalign.exceptions import ConfigError, DataError
from tests.annotation.conftest import drawn, make_folder
from tests.cli.conftest import CHECKOUT


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "my out", drawn(["p", "q"], 2, ["x", "y"]))


def vote_on(folder, choices, rater="anna"):
    """Vote as the page does, on the first comparisons."""
    listed = read_comparisons(folder)
    with VoteFile(folder) as votes:
        ballot = Ballot(folder, listed, 0, votes)
        for each, choice in zip(listed, choices, strict=False):
            ballot.add({"comparison": each.id, "rater": rater, "choice": choice, "seconds": 2.0})


def test_a_session_from_start_to_ctrl_c(folder):
    command = [sys.executable, "-m", "diffalign", "annotate", str(folder), "--between", "x,y", "--rater", "anna b"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(
        [*command, "--no-open"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:") and address.endswith("/?rater=anna%20b")
    page = urllib.request.urlopen(address, timeout=60).read().decode()
    token = page.partition('name="token" content="')[2][:32]
    base = address.partition("?")[0]
    session = json.load(urllib.request.urlopen(f"{base}session?rater=anna%20b", timeout=60))
    assert len(session["comparisons"]) == 4
    said = {"comparison": session["comparisons"][0]["id"], "rater": "anna b", "choice": "tie", "seconds": 1}
    asked = urllib.request.Request(f"{base}vote", json.dumps(said).encode(), {"X-Token": token})
    assert json.load(urllib.request.urlopen(asked, timeout=60)) == {"saved": True}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert out == ""
    assert "4 comparisons of 2 prompts" in err
    assert f"1 vote by 1 person on 1 of 4 comparisons, in {folder / 'votes.jsonl'}" in err
    assert f"diffalign annotate '{folder}'" in err
    assert f"diffalign pair --input '{folder}' --votes '{folder / 'votes.jsonl'}' --out pairs.jsonl" in err
    assert "Traceback" not in err
    assert read_plan(folder) == Plan(between="x,y")


def test_summary(call, folder):
    result = call("annotate", folder, "--summary")
    assert result.exit_code == 0 and "no votes in" in result.stdout
    vote_on(folder, ["left", "right", "tie", "skip"])
    alone = call("annotate", folder, "--summary").stdout
    assert "votes on 4 comparisons" in alone and "of one person alone there is none" in alone
    vote_on(folder, ["bad", "left"], rater="[red]ben")
    text = call("annotate", folder, "--summary").stdout
    assert "[red]ben" in text and "Cohen's kappa" in text and "50% [9%, 91%]" in text
    summary = json.loads(call("annotate", folder, "--summary", "--json").stdout)
    assert [person["votes"] for person in summary["raters"]] == [2, 4]
    assert summary["agreement"]["pairs"][0]["common"] == 2
    assert summary["all"]["seconds"] == 2.0


def test_summary_counts_what_the_folder_has_still(call, folder):
    vote_on(folder, ["left"] * 4)
    make_folder(folder, drawn(["p"], 2))
    result = call("annotate", folder, "--summary", "--json")
    assert json.loads(result.stdout)["comparisons"] == json.loads(result.stdout)["all"]["votes"] == 1
    assert "3 votes left out" in result.stderr


def test_what_the_folder_remembers_can_be_taken_back(call, folder, monkeypatch):
    plans = []
    monkeypatch.setattr("diffalign.annotation.serve", lambda folder, plan, **_: plans.append(plan))
    write_plan(folder, Plan("x,y", 3, 5))
    assert call("annotate", folder).exit_code == call("annotate", folder, "--between", "").exit_code == 0
    assert call("annotate", folder, "--pairs", 0).exit_code == 0
    assert plans == [Plan("x,y", 3, 5), Plan(None, 3, 5), Plan("x,y", None, 5)]


def test_the_command_for_records_of_the_page_about_people(call, folder, monkeypatch):
    """From votes to records, as it is written there."""
    text = (CHECKOUT / "docs" / "people.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    diffalign (pair .*)", text, re.MULTILINE)
    monkeypatch.chdir(folder.parent)
    folder.rename("drawn")
    vote_on(folder.parent / "drawn", ["left"])
    assert call(*shlex.split(line, comments=True)).exit_code == 0
    assert len(list(read_records(folder.parent / "pairs.jsonl"))) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "nowhere is no folder"),
        (("nowhere", "--summary"), "nowhere is no folder"),
        (("FOLDER", "--between", "x,z"), "it has: x, y"),
        (("FOLDER", "--json"), "--json: is for --summary"),
        (("FOLDER", "--rater", " "), "rater: must be a name"),
    ],
)
def test_what_annotate_refuses(call, folder, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    result = call("annotate", *(folder if part == "FOLDER" else part for part in arguments), "--no-open")
    assert isinstance(result.exception, ConfigError | DataError), result.output
    assert says in str(result.exception)
    assert not (folder / "votes.jsonl").exists() or (folder / "votes.jsonl").read_bytes() == b""


def test_blind_export_votes_and_win_rates(call, run_folder, tmp_path):
    out = tmp_path / "blind"
    before = (run_folder / "evaluation" / "summary.json").stat().st_mtime_ns
    result = call("eval", run_folder, "--blind", out)
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{out}\n" and f"diffalign eval {run_folder} --votes {out}" in result.stderr
    assert (run_folder / "evaluation" / "summary.json").stat().st_mtime_ns == before  # nothing was drawn
    assert len(read_comparisons(out)) == 2
    vote_on(out, ["left", "tie"])
    result = call("eval", run_folder, "--votes", out)
    assert result.exit_code == 0, result.exception
    assert "base against aligned, by people" in result.stdout
    assert result.stdout.strip().splitlines()[-1] == str(run_folder)
    assert "<h3>People</h3>" in (run_folder / "report.html").read_text()
    people = json.loads(call("eval", run_folder, "--votes", out, "--json").stdout)
    assert people == json.loads((run_folder / "evaluation" / "people.json").read_text())
    assert people["all"]["votes"] == 2


def test_eval_with_people_refuses(call, run_folder, tmp_path):
    for arguments, says in (
        (("--blind", tmp_path / "x", "--votes", tmp_path), "either --blind .* or --votes"),
        (("--blind", tmp_path / "x", "--json"), "--json: --blind prints the folder alone"),
        (("--blind", run_folder), "is there already"),
        (("--votes", tmp_path), "has no key.json"),
    ):
        result = call("eval", run_folder, *arguments)
        assert isinstance(result.exception, ConfigError | DataError)
        assert re.search(says, str(result.exception))
    assert isinstance(call("eval", tmp_path, "--votes", tmp_path).exception, ConfigError)
