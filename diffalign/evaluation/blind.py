"""Base against aligned as people see it: pictures under names that say nothing, and the votes turned into win rates."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.annotation import Vote, read_comparisons, read_votes, summarise
from diffalign.annotation.comparisons import KEY, LISTING
from diffalign.config.run import EvaluationConfig
from diffalign.data.key_table import draft_of
from diffalign.evaluation.statistics import win_rate
from diffalign.exceptions import ConfigError, DataError, SaveError

PEOPLE = "people.json"
_SCORES = {"aligned": 1.0, "tie": 0.5, "bad": 0.5, "base": 0.0}


def export_blind(run: Path, out: Path, result: Path, *, seed: int = 0) -> int:
    """Write the pictures of `run/evaluation/` as a folder for `diffalign annotate`; returns how many pairs.

    Which picture of a pair comes first is drawn from `seed`; what they are stands in `out/key.json` alone, which the page
    never shows. Who votes must not look into it.

    Args:
        run: the run folder, with an evaluation in it.
        out: the folder to make; it must not hold anything yet.
        result: what the run has trained (adapter/ or model/): its hash goes into the key.

    Raises:
        ConfigError: `out` is there already.
        DataError: the evaluation is missing or incomplete.
        SaveError: `out` cannot be written.
    """
    check_new(out)
    rows = _evaluated(run)
    coin = random.Random(seed)
    draft = draft_of(out)
    whose: dict[str, str] = {}
    listing = []
    try:
        draft.mkdir(parents=True)
        for number, row in enumerate(rows):
            sides = ["base", "aligned"] if coin.random() < 0.5 else ["aligned", "base"]
            names = [f"{number:05d}-{place}.png" for place in (1, 2)]
            for name, side in zip(names, sides, strict=True):
                shutil.copyfile(run / row[side], draft / name)
                whose[name] = side
            listing.append({"id": f"{number:05d}", "prompt": row["prompt"], "items": names})
        (draft / LISTING).write_text(_lines(listing), encoding="utf-8")
        key = {"run": run.resolve().name, "result": hash_of(result), "pictures": whose}
        (draft / KEY).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, out)
    except OSError as error:
        raise SaveError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(listing)


def check_new(out: Path) -> None:
    """Whether an export can be written there, before anything is drawn for it.

    Raises:
        ConfigError: something is there already.
    """
    if out.resolve() == Path.cwd():  # putting another folder in its place would leave the shell in one that is gone
        raise ConfigError(f"--blind: {out} is the current folder; give a new one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--blind: {out} is there already; give a new folder, or use its votes: --votes {out}")


def import_votes(run: Path, out: Path, result: Path, config: EvaluationConfig) -> dict[str, Any]:
    """Turn the votes on an export into win rates of aligned over base, and write `run/evaluation/people.json`.

    A vote for aligned counts 1, for base 0, "tie" and "bad" 1/2; skipped ones do not count. The votes of several people on
    one prompt are averaged, and the interval is Wilson's over prompts: it says how the rate would vary with other prompts,
    not with other people.

    Args:
        run: the run folder.
        out: what `export_blind` wrote, with votes.
        result: as for the export; the hash must be the same.
        config: confidence.

    Returns:
        The content of people.json.

    Raises:
        DataError: no export, another run's, or no votes in it.
        SaveError: the file cannot be written.
    """
    key = _read_key(out, run, result)
    listed = {each.id for each in read_comparisons(out)}
    votes = [vote for vote in read_votes(out) if vote.comparison in listed]
    judged = [vote for vote in votes if vote.vote != "skip"]
    if not judged:
        raise DataError(f"{out}: nobody has judged a pair yet; diffalign annotate {out}")
    summary = summarise(votes)
    people: dict[str, Any] = {
        "confidence": config.confidence,
        "pairs": len(listed),
        "all": _rates(votes, key, config),
        "raters": {name: _rates(_of(name, votes), key, config) for name in sorted({vote.rater for vote in judged})},
        "agreement": asdict(summary.agreement),
        "left": asdict(summary.all.left),
    }
    text = json.dumps(people, indent=2, ensure_ascii=False) + "\n"
    path = run / "evaluation" / PEOPLE
    draft = path.with_name(f".{PEOPLE}.partial")
    try:
        path.parent.mkdir(exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}") from None
    return json.loads(text)


def hash_of(result: Path) -> str:
    """Of all weights in a folder: which state of the model was judged."""
    digest = hashlib.sha256()
    for path in sorted(result.rglob("*.safetensors")):
        digest.update(path.relative_to(result).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _evaluated(run: Path) -> list[dict[str, Any]]:
    path = run / "evaluation" / "records.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lost = [row[side] for row in rows for side in ("base", "aligned") if not (run / row[side]).is_file()]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); compare again: diffalign eval {run}") from None
    if lost or not rows:
        what = f"{run / lost[0]} is missing" if lost else f"{path} is empty"
        raise DataError(f"{what}; compare again: diffalign eval {run}")
    return rows


def _read_key(out: Path, run: Path, result: Path) -> Mapping[str, str]:
    """Which picture of the export is whose."""
    path = out / KEY
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        name, made_of, pictures = str(key["run"]), key["result"], dict(key["pictures"])
    except FileNotFoundError:
        raise DataError(f"--votes: {out} has no {KEY}; give a folder that diffalign eval RUN --blind made") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"--votes: {path} cannot be read: {error}") from None
    if made_of != hash_of(result):
        same = name == run.resolve().name
        why = "has been trained further since" if same else f"is another run: these are of {name}"
        raise DataError(f"--votes: {out} shows other pictures: {run} {why}; make a new export with --blind")
    return pictures


def _rates(votes: Sequence[Vote], key: Mapping[str, str], config: EvaluationConfig) -> dict[str, Any]:
    """Counts of votes, and the win rate over prompts."""
    pictures = [{"a": vote.a, "b": vote.b}.get(vote.vote) for vote in votes]
    outcomes = [
        (vote, vote.vote if picture is None else key[picture]) for vote, picture in zip(votes, pictures, strict=True)
    ]
    counts = {
        name: sum(outcome == name for _, outcome in outcomes) for name in ("aligned", "tie", "bad", "base", "skip")
    }
    by_pair: dict[tuple[str, str], list[float]] = {}
    for vote, outcome in outcomes:
        if outcome in _SCORES:
            by_pair.setdefault((vote.prompt, vote.comparison), []).append(_SCORES[outcome])
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), scores in by_pair.items():
        by_prompt.setdefault(prompt, []).append(float(np.mean(scores)))
    means = np.array([np.mean(scores) for scores in by_prompt.values()])
    rate = win_rate(means, confidence=config.confidence)
    return {
        "prompts": len(by_prompt),
        "votes": sum(counts.values()) - counts["skip"],
        "wins": counts["aligned"],
        "ties": counts["tie"],
        "bad": counts["bad"],
        "losses": counts["base"],
        "skipped": counts["skip"],
        "win_rate": rate.value,
        "win_rate_low": rate.low,
        "win_rate_high": rate.high,
    }


def _of(rater: str, votes: Iterable[Vote]) -> list[Vote]:
    return [vote for vote in votes if vote.rater == rater]


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
