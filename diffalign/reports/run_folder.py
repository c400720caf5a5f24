"""Reading a run folder: everything but config.yaml may be missing, cut off or damaged, and the report says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from diffalign.exceptions import DataError

_SHEET = re.compile(r"step-(\d+)\.png")
# file:///a/b, /a/b, ~/a/b or C:\a\b inside a sentence; not zoo://name, not pixels/second
_PATH_IN_TEXT = re.compile(r"file:/+[^\s'\",;]+|(?<![\w:/\\.~…])(?:~|[A-Za-z]:)?[/\\][^\s/\\'\",;:<>|][^\s'\",;:<>|]*")


@dataclass(frozen=True)
class RunReport:
    """What was read from a run folder.

    Args:
        folder: the run folder.
        name: its name, without the folders above it.
        config: resolved config.
        environment: python, platform, versions; None where environment.json is missing.
        steps, samples, alarms, resumes: rows of metrics.jsonl by event, in order of step; None without the file.
        summary: evaluation/summary.json; None where missing.
        records: rows of evaluation/records.jsonl; None where missing.
        people: evaluation/people.json; None where missing.
        sheets: (step, file) of every contact sheet, in order of step.
        problems: file -> what could not be read of it, in words.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    environment: dict[str, Any] | None = None
    steps: tuple[dict[str, Any], ...] | None = None
    samples: tuple[dict[str, Any], ...] | None = None
    alarms: tuple[dict[str, Any], ...] | None = None
    resumes: tuple[dict[str, Any], ...] | None = None
    summary: dict[str, Any] | None = None
    records: tuple[dict[str, Any], ...] | None = None
    people: dict[str, Any] | None = None
    sheets: tuple[tuple[int, Path], ...] = ()
    problems: dict[str, str] = field(default_factory=dict)


def read_run(run: Path) -> RunReport:
    """Read what a run has written so far; a running one may be read too.

    Raises:
        DataError: the folder is no run folder, or its config.yaml cannot be read.
    """
    run = Path(run)
    problems: dict[str, str] = {}
    config = _read_config(run)
    if trains_reward(run):
        raise DataError(
            f"task: {run / 'config.yaml'} is of task: reward, and this is for runs that align a model; what a trained "
            "reward is worth stands in its run's held_out.json, and diffalign rewards bench measures it"
        )
    events: dict[str, tuple[dict[str, Any], ...]] = {}
    metrics = _read_lines(run, "metrics.jsonl", problems)
    if metrics is not None:
        rows = [row for row in metrics if isinstance(row.get("step"), int)]
        events = {kind: _in_order(rows, kind) for kind in ("step", "samples", "alarm", "resume")}
    return RunReport(
        folder=run,
        name=run.resolve().name,
        config=config,
        environment=_read_object(run, "environment.json", problems),
        steps=events.get("step"),
        samples=events.get("samples"),
        alarms=events.get("alarm"),
        resumes=events.get("resume"),
        summary=_read_object(run, "evaluation/summary.json", problems),
        records=_read_lines(run, "evaluation/records.jsonl", problems),
        people=_read_object(run, "evaluation/people.json", problems),
        sheets=_find_sheets(run / "samples"),
        problems=problems,
    )


def trains_reward(run: Path | str) -> bool:
    """Whether it is a run of `task: reward`, which has no report.

    Raises:
        DataError: it is no run folder.
    """
    return _read_config(Path(run)).get("task") == "reward"


def hide_paths(value: Any) -> Any:
    """The same text, list or mapping with absolute paths of this machine cut to `…/last-part`."""
    if isinstance(value, dict):
        return {hide_paths(key): hide_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath(value), PureWindowsPath(value)):
        if kind.is_absolute() and "\n" not in value:
            return f"…/{kind.name}" if kind.name else "…/"
    return _PATH_IN_TEXT.sub(lambda match: "…/" + re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], value)


def _read_config(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    if not file.is_file():
        what = "has no config.yaml" if run.is_dir() else "does not exist"
        raise DataError(
            f"{run} is not a run folder: it {what}; give a folder that `diffalign train` made (runs/NAME-TIME)"
        )
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise DataError(f"{file} must hold a mapping of settings, got {type(config).__name__}")
    return config


def _read_text(run: Path, name: str, problems: dict[str, str]) -> str | None:
    try:
        return (run / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        problems[name] = f"{name} cannot be read: {error.strerror}."
        return None


def _read_object(run: Path, name: str, problems: dict[str, str]) -> dict[str, Any] | None:
    text = _read_text(run, name, problems)
    if text is None:
        return None
    content = _parse(text)
    if not isinstance(content, dict):
        problems[name] = f"{name} is damaged: it holds no JSON object."
        return None
    return content


def _read_lines(run: Path, name: str, problems: dict[str, str]) -> tuple[dict[str, Any], ...] | None:
    """The JSON objects of a file, one a line. A last line that was cut off is left out without a word."""
    text = _read_text(run, name, problems)
    if text is None:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    rows = [_parse(line) for line in lines]
    if rows and not text.endswith("\n") and not isinstance(rows[-1], dict):
        rows.pop()
    bad = sum(not isinstance(row, dict) for row in rows)
    if bad:
        problems[name] = f"{bad} of {len(rows)} lines of {name} are damaged and left out."
    return tuple(row for row in rows if isinstance(row, dict))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _in_order(rows: Iterable[dict[str, Any]], event: str) -> tuple[dict[str, Any], ...]:
    return tuple(sorted((row for row in rows if row.get("event") == event), key=itemgetter("step")))


def _find_sheets(folder: Path) -> tuple[tuple[int, Path], ...]:
    found = ((_SHEET.fullmatch(file.name), file) for file in folder.glob("step-*.png")) if folder.is_dir() else ()
    return tuple(sorted((int(match[1]), file) for match, file in found if match))
