"""Which pictures of a folder are compared: pairs with one prompt, in an order that a restart finds again."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffalign.annotation.pictures import picture_type
from diffalign.exceptions import ConfigError, DataError

LISTING = "metadata.jsonl"
KEY = "key.json"  # of a blind comparison, says which picture is whose: whoever votes must not see it
_PLAN = "annotation.json"


@dataclass(frozen=True)
class Plan:
    """Which of a folder's comparisons are shown.

    Attributes:
        between: "x,y": only pictures of source x with pictures of source y that have the same seed; None: all pairs.
        pairs: at most so many of each prompt; None: all.
        seed: chooses them, their order, and which picture stands on the left.
    """

    between: str | None = None
    pairs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs is not None and self.pairs < 1:
            raise ConfigError(f"--pairs: must be at least 1, got {self.pairs}")


@dataclass(frozen=True)
class Comparison:
    """Two pictures with one prompt.

    Attributes:
        id: follows from prompt and file names alone, so that votes stay with their pictures whatever else is in the folder.
        prompt: what both were drawn for.
        a, b: file names. Of single pictures a is the one whose name sorts first, in whatever order they are listed; of a
            record of several it is the chosen one, or the first item.
        record: what the folder says of `a` (or of both, where one record lists them).
    """

    id: str
    prompt: str
    a: str
    b: str
    record: Mapping[str, Any]


def read_comparisons(folder: Path, plan: Plan | None = None) -> list[Comparison]:
    """The comparisons of a folder: first one of each prompt, then a second one of each, and so on.

    Everybody gets them in this order, so that two people who both stop early have judged the same ones.

    Args:
        folder: as `diffalign generate` writes it (metadata.jsonl with file_name and prompt), or with records of kind pairs
            (prompt, chosen, rejected) or groups (prompt, items).
        plan: which of them; None is the folder's own plan.

    Raises:
        DataError: no such folder or listing, a row that is wrong, or a picture that is missing or outside of the folder.
        ConfigError: nothing to compare under this plan.
    """
    plan = read_plan(folder) if plan is None else plan
    rows = _read_rows(folder / LISTING)
    ranked: list[tuple[int, str, Comparison]] = []
    by_prompt: dict[str, dict[str, Comparison]] = {}
    for each in _pairs(folder / LISTING, rows, plan.between):
        by_prompt.setdefault(each.prompt, {})[each.id] = each
    for found in by_prompt.values():
        in_order = sorted((_digest(plan.seed, each.id), each.id) for each in found.values())
        ranked += [(rank, key, found[name]) for rank, (key, name) in enumerate(in_order[: plan.pairs])]
    if not ranked:
        raise ConfigError(
            f"{folder / LISTING}: no prompt has two pictures to compare; draw more of each: diffalign generate --count 2"
        )
    ranked.sort(key=lambda item: item[:2])
    listed = [comparison for *_, comparison in ranked]
    for name in {name: None for each in listed for name in (each.a, each.b)}:
        picture_type(folder, name)
    return listed


def read_plan(folder: Path) -> Plan:
    """What `write_plan` wrote into the folder; the default plan where nothing did.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / _PLAN
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Plan()
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not the plan that diffalign annotate writes ({error}); remove it") from None


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep a plan in a folder, so that all who open it later see the same comparisons."""
    path = folder / _PLAN
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(json.dumps(asdict(plan)) + "\n", encoding="utf-8")
    os.replace(draft, path)


def first_side(comparison: str, rater: str, seed: int) -> str:
    """Whether this person sees picture "a" or "b" on the left: as good as a coin, the same after a restart."""
    return "ab"[int(_digest(seed, comparison, rater)[0], 16) % 2]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_rows(listing: Path) -> list[dict[str, Any]]:
    """The rows; a last line that is only begun, as of a folder that is being written, is left out."""
    try:
        text = listing.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        folder = listing.parent
        what = f"has no {LISTING}" if folder.is_dir() else "is no folder"
        rounds = sorted(folder.glob(f"rounds/*/{LISTING}"))  # of an online run that people judge
        instead = rounds[-1].parent if rounds else "a folder that diffalign generate wrote, or one of pairs or groups"
        raise DataError(f"{folder} {what}; give {instead}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listing}: cannot be read: {error}") from None
    lines = text.split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise DataError(f"{listing}, line {number}: not JSON, got {line!r:.80}") from None
        problem = _problem(row)
        if problem is not None:
            raise DataError(f"{listing}, line {number}: {problem}")
        rows.append(row)
    return rows


def _problem(row: Any) -> str | None:
    """What is wrong with a row, in words."""
    if not isinstance(row, dict) or not _is_text(row.get("prompt")):
        return f"must be an object with a text 'prompt', got {row!r:.80}"
    if (names := _names(row)) is None:
        return f"needs file_name, or chosen and rejected, or items; it has {', '.join(row)}"
    if not isinstance(names, list) or not all(map(_is_text, names)):
        return f"pictures must be file names, got {names!r:.80}"
    return None


def _is_text(value: Any) -> bool:
    """Whether it is text that a file can hold: JSON may name half a character (a lone surrogate)."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _names(row: Mapping[str, Any]) -> Any:
    """The pictures of a row: one, or those that it says belong together; None: it has none."""
    if "items" in row:
        return row["items"]
    if "chosen" in row and "rejected" in row:
        return [row["chosen"], row["rejected"]]
    return [row["file_name"]] if "file_name" in row else None


def _pairs(listing: Path, rows: Sequence[Mapping[str, Any]], between: str | None) -> Iterator[Comparison]:
    """All of them: within each record of several pictures, and among the single pictures of each prompt."""
    single: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if "file_name" in row and "items" not in row:
            single.setdefault(row["prompt"], []).append(row)
        elif between is None:
            for a, b in itertools.combinations(_names(row), 2):
                yield _comparison(row, a, b)
    wanted = None if between is None else _sources(listing, rows, between)
    for group in single.values():
        for row, other in itertools.combinations(group, 2):
            same_seed = row.get("seed") == other.get("seed")
            if wanted is None or (same_seed and {row.get("source"), other.get("source")} == wanted):
                first, second = sorted((row, other), key=lambda each: str(each["file_name"]))
                yield _comparison(first, first["file_name"], second["file_name"])


def _comparison(record: Mapping[str, Any], a: str, b: str) -> Comparison:
    return Comparison(_digest(record["prompt"], a, b)[:12], record["prompt"], a, b, record)


def _sources(listing: Path, rows: Sequence[Mapping[str, Any]], between: str) -> set[str]:
    """The two sources of "x,y"; names may have commas themselves.

    Raises:
        ConfigError: the folder has not both of them.
    """
    there = {str(row["source"]) for row in rows if row.get("source") is not None}
    parts = between.split(",")
    for cut in range(1, len(parts)):
        found = {",".join(parts[:cut]).strip(), ",".join(parts[cut:]).strip()}
        if len(found) == 2 and found <= there:
            return found
    known = ", ".join(sorted(there)) or "none"
    raise ConfigError(f"--between: give two sources of {listing} as X,Y, got {between!r}; it has: {known}")
