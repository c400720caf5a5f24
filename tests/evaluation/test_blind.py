"""Blind pairs of base and aligned pictures, and what people's votes on them come to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from diffalign.annotation import AnnotationServer, Vote, VoteFile, read_comparisons
from diffalign.config.run import EvaluationConfig
from diffalign.evaluation import export_blind, import_votes
from diffalign.exceptions import ConfigError, DataError

CONFIG = EvaluationConfig(resamples=500, confidence=0.9, seed=3)
PROMPTS = [f"prompt {number}" for number in range(40)]
BASE, ALIGNED = (200, 0, 0), (0, 0, 200)  # a reader of the pictures knows them apart


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as evaluation leaves it: base pictures are red, aligned ones blue."""
    run = tmp_path / "run-a"
    (run / "adapter").mkdir(parents=True)
    save_file({"x": np.arange(3.0)}, run / "adapter" / "weights.safetensors")
    rows = []
    for side, colour in (("base", BASE), ("aligned", ALIGNED)):
        (run / "evaluation" / side).mkdir(parents=True)
        for number in range(len(PROMPTS)):
            Image.new("RGB", (8, 8), colour).save(run / "evaluation" / side / f"{number:05d}.png")
    for number, prompt in enumerate(PROMPTS):
        name = f"{number:05d}.png"
        sides = {side: f"evaluation/{side}/{name}" for side in ("base", "aligned")}
        rows.append({"id": f"{number:05d}", "prompt": prompt, "seed": number, **sides, "rewards": {}})
    (run / "evaluation" / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def colour(path: Path) -> tuple[int, ...]:
    pixel = Image.open(path).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def export(run: Path, out: Path, **more) -> Path:
    export_blind(run, out, run / "adapter", **more)
    return out


def judge(out: Path, rater: str, say) -> None:
    """`say(prompt number)` is aligned, base, tie, bad, skip, or None for no vote."""
    with VoteFile(out) as votes:
        for each in read_comparisons(out):
            said = say(PROMPTS.index(each.prompt))
            if said is None:
                continue
            if said in ("aligned", "base"):
                wanted = ALIGNED if said == "aligned" else BASE
                said = "a" if colour(out / each.a) == wanted else "b"
            votes.add(Vote(each.id, each.prompt, each.a, each.b, said, rater, "ab", 1.0, "2026-01-01T12:00:00Z"))


def import_(run: Path, out: Path) -> dict:
    return import_votes(run, out, run / "adapter", CONFIG)


def test_an_export_is_blind_and_whole(run, tmp_path):
    out = export(run, tmp_path / "out")
    found = read_comparisons(out)
    assert sorted(each.prompt for each in found) == sorted(PROMPTS)
    assert all({colour(out / each.a), colour(out / each.b)} == {BASE, ALIGNED} for each in found)
    first = [colour(out / each.a) for each in found].count(BASE)
    assert abs(first - 20) < 4 * 10**0.5  # four standard deviations of a fair coin
    listing = (out / "metadata.jsonl").read_text()
    assert "base" not in listing and "aligned" not in listing and "seed" not in listing
    with AnnotationServer(out) as server:
        told = json.dumps(server.ballot.session("anna"))
        assert "00000-1" not in told and "key" not in told
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_seed_says_which_comes_first(run, tmp_path):
    folders = [export(run, tmp_path / f"{number}", seed=seed) for number, seed in enumerate((0, 0, 1))]
    orders = [[colour(out / f"{number:05d}-1.png") for number in range(len(PROMPTS))] for out in folders]
    assert orders[0] == orders[1] != orders[2]


def test_win_rates_by_hand(run, tmp_path):
    out = export(run, tmp_path / "out")
    judge(
        out,
        "anna",
        lambda number: "aligned" if number < 6 else "base" if number < 8 else "tie" if number < 10 else None,
    )
    judge(
        out, "ben", lambda number: "aligned" if number < 2 else "bad" if number < 3 else "skip" if number < 5 else None
    )
    people = import_(run, out)
    # per prompt: 1, 1, (1 + 1/2) / 2, 1, 1, 1, 0, 0, 1/2, 1/2
    scores = np.array([1, 1, 0.75, 1, 1, 1, 0, 0, 0.5, 0.5])
    every = people["all"]
    assert every["win_rate"] == pytest.approx(scores.mean())
    counted = ("prompts", "votes", "wins", "ties", "bad", "losses", "skipped")
    assert [every[key] for key in counted] == [10, 13, 8, 2, 1, 2, 2]
    assert [people["raters"]["ben"][key] for key in counted] == [3, 3, 2, 0, 1, 0, 2]
    assert people["raters"]["anna"]["win_rate"] == pytest.approx(0.7)
    assert (people["pairs"], people["confidence"]) == (40, 0.9)
    assert people["agreement"]["pairs"][0]["common"] == 3
    assert json.loads((run / "evaluation" / "people.json").read_text()) == people


def test_the_interval_is_wilsons_over_prompts(run, tmp_path):
    out = export(run, tmp_path / "out")
    for rater in ("anna", "ben", "cleo"):  # more people who say the same make no prompt more
        judge(out, rater, lambda number: "aligned" if number % 4 else "base")
    every = import_(run, out)["all"]
    assert every["win_rate"] == 0.75
    z = 1.644854  # of 90 %; (3/4 + z²/80 -/+ z sqrt(3/16/40 + z²/6400)) / (1 + z²/40)
    half = z * (0.1875 / 40 + z**2 / 6400) ** 0.5
    expected = [(0.75 + z**2 / 80 + sign * half) / (1 + z**2 / 40) for sign in (-1, 1)]
    assert [every["win_rate_low"], every["win_rate_high"]] == pytest.approx(expected, abs=1e-5)


def test_few_votes_that_all_agree_are_not_certain(run, tmp_path):
    out = export(run, tmp_path / "out")
    judge(out, "anna", lambda number: "aligned" if number < 3 else None)
    every = import_(run, out)["all"]
    assert every["win_rate"] == every["win_rate_high"] == 1.0 and every["win_rate_low"] < 0.6


def test_votes_for_the_better_one_win_whatever_the_order(run, tmp_path):
    for seed in (0, 1):
        out = export(run, tmp_path / f"{seed}", seed=seed)
        judge(out, "anna", lambda _: "aligned")
        assert import_(run, out)["all"]["win_rate"] == 1.0
        judge(out, "anna", lambda _: "base")  # changed their mind
        assert import_(run, out)["all"]["win_rate"] == 0.0


def test_votes_on_another_model_are_refused(run, tmp_path):
    out = export(run, tmp_path / "out")
    judge(out, "anna", lambda _: "tie")
    other = tmp_path / "run-b"
    shutil.copytree(run, other)
    assert import_(other, out)["all"]["win_rate"] == 0.5  # the same model by another name
    save_file({"x": np.arange(4.0)}, other / "adapter" / "weights.safetensors")
    with pytest.raises(DataError, match=r"run-b is another run: these are of run-a; make a new export"):
        import_(other, out)
    save_file({"x": np.arange(5.0)}, run / "adapter" / "weights.safetensors")
    before = (run / "evaluation" / "people.json").exists()
    with pytest.raises(DataError, match=r"run-a has been trained further since; make a new export with --blind"):
        import_(run, out)
    assert (run / "evaluation" / "people.json").exists() == before


def test_what_cannot_be_imported(run, tmp_path):
    with pytest.raises(DataError, match=r"has no key.json; give a folder that diffalign eval RUN --blind made"):
        import_(run, tmp_path)
    out = export(run, tmp_path / "out")
    judge(out, "anna", lambda _: "skip")
    with pytest.raises(DataError, match="nobody has judged a pair yet"):
        import_(run, out)
    (out / "key.json").write_text("{}")
    with pytest.raises(DataError, match=r"key.json cannot be read"):
        import_(run, out)


def test_a_folder_that_is_empty_and_what_stands_beside_it(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "mine").touch()
    assert len(read_comparisons(export(run, tmp_path / "out"))) == len(PROMPTS)
    assert (tmp_path / ".out.partial" / "mine").is_file()


def test_what_cannot_be_exported(run, tmp_path):
    out = export(run, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"out is there already; give a new folder, or use its votes: --votes"):
        export(run, out)
    (tmp_path / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "empty")
        with pytest.raises(ConfigError, match=r"--blind: \. is the current folder; give a new one"):
            export(run, Path())
    (run / "evaluation" / "base" / "00003.png").unlink()
    with pytest.raises(DataError, match=r"00003.png is missing; compare again: diffalign eval "):
        export(run, tmp_path / "other")
    shutil.rmtree(run / "evaluation")
    with pytest.raises(DataError, match=r"records.jsonl cannot be read .*compare again"):
        export(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()
