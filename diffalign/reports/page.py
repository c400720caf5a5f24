"""The HTML page of a run: one file that needs no other."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import yaml

from diffalign.exceptions import DataError
from diffalign.reports import comparison
from diffalign.reports.curves import draw_sample_curves, draw_training_curves
from diffalign.reports.numbers import count, finite, plain, plural
from diffalign.reports.people import people_notes, people_rows
from diffalign.reports.pictures import Picture, inline_picture
from diffalign.reports.row import Row
from diffalign.reports.run_folder import RunReport, hide_paths, read_run
from diffalign.reports.selection import choose_examples, score_pair

_CARD_PIXELS = 256  # greatest side of a picture in the grid
_SHEET_PIXELS = 1024  # greatest side of a contact sheet
_CARD_SHOWN, _SHEET_SHOWN = 150, 345  # width on the page, in CSS pixels
_SHEETS = 6  # first, last and up to four between


@dataclass(frozen=True)
class _Card:
    prompt: str
    base: Picture | None
    aligned: Picture | None
    scores: tuple[tuple[str, str, str], ...]  # reward, base, aligned; the grid's own reward first


@dataclass(frozen=True)
class _Block:
    kind: str
    heading: str
    rule: str
    cards: tuple[_Card, ...]


@dataclass(frozen=True)
class _Sheet:
    step: int
    picture: Picture | None
    rewards: str


@dataclass(frozen=True)
class _Event:
    step: int
    name: str
    action: str
    message: str


def write_report(run: Path) -> Path:
    """Write `run/report.html`, the whole page or none of it, and return its path.

    Raises:
        DataError: the folder is no run folder, or the page cannot be written there.
    """
    report = read_run(run)
    page = _render(report)
    target = report.folder / "report.html"
    draft = report.folder / f".report.html.{os.getpid()}.partial"
    try:
        draft.write_text(page, encoding="utf-8", errors="replace")
        os.replace(draft, target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written: {error.strerror}; free some space or make the folder writable"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return target


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _true_minus
    return environment.get_template("report.html.jinja")


def _render(run: RunReport) -> str:
    rows = comparison.comparison_rows(run.summary or {})
    reward = _grid_reward(run, rows)
    return _template().render(
        run=run,
        setup=_setup(run),
        progress=_progress(run),
        sentences=_sentences(run, rows),
        rows=rows,
        form=comparison.form_heading(rows),
        components=comparison.component_rows(run.summary or {}),
        confidence=comparison.confidence_text(run.summary or {}),
        measured=comparison.how_measured(run.summary or {}),
        tie_rule=comparison.tie_rule(rows),
        people=people_rows(run.people or {}),
        people_notes=people_notes(run.people or {}),
        unscored=[hide_paths(_unscored(row, run.summary or {})) for row in rows if row.unscored],
        reward=reward,
        blocks=_blocks(run, reward, rows),
        training_curves=draw_training_curves(run),
        sample_curves=draw_sample_curves(run),
        sheets=_sheets(run, rows),
        events=_events(run),
        config=yaml.safe_dump(hide_paths(run.config), sort_keys=False, allow_unicode=True, width=100),
        environment=_environment_rows(run.environment),
        version=_version(run.environment),
    )


def _setup(run: RunReport) -> list[tuple[str, str]]:
    """The few settings that say what was trained, for the head of the page."""
    keys = (
        ("method", "objective", "name"),
        ("model", "model", "path"),
        ("family", "model", "family"),
        ("data", "data", "path"),
        ("beta", "objective", "beta"),
        ("learning rate", "optimizer", "learning_rate"),
        ("steps", "training", "steps"),
    )
    found = ((label, _section(run.config, part).get(key)) for label, part, key in keys)
    shown = [(label, _write(value)) for label, value in found if value is not None]
    seed = run.config.get("seed")
    return shown if seed is None else [*shown, ("seed", _write(seed))]


def _write(value: Any) -> str:
    """A setting as text: 2000 for 2000.0."""
    return plain(value, 6) if isinstance(value, float) else str(hide_paths(value))


def _progress(run: RunReport) -> str:
    """What was trained, and how far it came."""
    method, model = (_section(run.config, part).get(key) for part, key in (("objective", "name"), ("model", "path")))
    what = f"{method} on {_write(model)}: " if method and model else ""
    planned = count(_section(run.config, "training").get("steps"))
    if not run.steps:
        why = "yet" if run.steps == () else "(metrics.jsonl is absent)"
        return f"{what}no training step is logged {why}."
    last = run.steps[-1]["step"]
    every = count(_section(run.config, "training").get("log_every")) or 1
    if planned is not None and last + every <= planned:
        text = f"{what}trained for {last} of {planned} steps; it had not finished when this page was written."
    else:
        text = f"{what}trained for {plural(planned or last, 'step')}."
    pace = [seconds for row in run.steps if (seconds := finite(row.get("seconds_per_step"))) > 0]
    return f"{text} {plain(sorted(pace)[len(pace) // 2], 3)} s a step (median)." if pace else text


def _sentences(run: RunReport, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(colour, note, sentence) for every line of the table."""
    summary = run.summary or {}
    prompts, confidence = count(summary.get("prompts")), comparison.confidence_text(summary)
    pictures = count(summary.get("pictures"))
    return [
        (row.colour, row.note, comparison.sentence(row, prompts=prompts, confidence=confidence, pictures=pictures))
        for row in rows
    ]


def _unscored(row: Row, summary: Mapping[str, Any]) -> str:
    reasons = "; ".join(reason + ("" if number is None else f" ({number})") for reason, number in row.reasons)
    noun = comparison.unit_of_comparison(summary)
    return f"{row.name}: {plural(row.unscored, noun)} not scored" + (f"; by picture: {reasons}" if reasons else "")


def _grid_reward(run: RunReport, rows: Sequence[Row]) -> str | None:
    """The trained reward; the first one where none is named or it was not scored."""
    scored = [row["rewards"] for row in run.records or () if isinstance(row.get("rewards"), dict)]
    present = list(dict.fromkeys(name for rewards in scored for name in rewards))
    wanted = [(run.summary or {}).get("trained_reward"), *(row.name for row in rows), *present]
    return next((name for name in wanted if name in present), None)


def _blocks(run: RunReport, reward: str | None, rows: Sequence[Row]) -> list[_Block]:
    scales = {row.name: row.scale for row in rows}
    return [
        _Block(choice.kind, choice.heading, choice.rule, tuple(_card(run, row, reward, scales) for row in choice.rows))
        for choice in choose_examples(run.records or (), reward)
    ]


def _card(run: RunReport, row: Mapping[str, Any], reward: str | None, scales: Mapping[str, Any]) -> _Card:
    names = list(row["rewards"]) if isinstance(row.get("rewards"), dict) else []
    names.sort(key=lambda name: name != reward)

    def write(name: str, value: float) -> str:
        scale = scales.get(name)
        return plain(value) if scale is None or scale.percent else scale.level(value)  # one picture's share is 0 or 1

    scores = tuple((name, *(write(name, value) for value in score_pair(row, name))) for name in names)
    base, aligned = (
        inline_picture(run.folder, row.get(side), limit=_CARD_PIXELS, shown=_CARD_SHOWN) for side in ("base", "aligned")
    )
    return _Card(str(row.get("prompt") or "(empty prompt)"), base, aligned, scores)


def _sheets(run: RunReport, rows: Sequence[Row]) -> list[_Sheet]:
    total = len(run.sheets)
    picked = sorted({round(place * (total - 1) / (_SHEETS - 1)) for place in range(_SHEETS)}) if total else []
    scales = {row.name: row.scale for row in rows}
    rewards = {row["step"]: row.get("rewards") for row in run.samples or ()}

    def write(name: str, figures: Any) -> str:
        mean = finite(figures.get("mean")) if isinstance(figures, dict) else finite(None)
        return f"{name} {scales[name].level(mean) if name in scales else plain(mean)}"

    sheets = []
    for step, file in (run.sheets[index] for index in picked):
        entry = rewards.get(step)
        text = ", ".join(write(name, figures) for name, figures in entry.items()) if isinstance(entry, dict) else ""
        picture = inline_picture(run.folder, f"samples/{file.name}", limit=_SHEET_PIXELS, shown=_SHEET_SHOWN)
        sheets.append(_Sheet(step, picture, text))
    return sheets


def _events(run: RunReport) -> list[_Event]:
    """Alarms, resumes, and figures that are not finite: a gap in a curve is said in words too."""
    events = [
        _Event(row["step"], "resume", "", "continued from the checkpoint of this step") for row in run.resumes or ()
    ]
    for row in run.alarms or ():
        name, action, message = (str(row.get(key) or "") for key in ("alarm", "action", "message"))
        events.append(_Event(row["step"], name or "alarm", action, hide_paths(message)))
    bad: dict[str, list[int]] = {}
    for row in run.steps or ():
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                bad.setdefault(name, []).append(row["step"])
    for name, at in bad.items():
        events.append(_Event(at[0], "bad number", "", f"{name} is not finite here; {plural(len(at), 'step')} in all"))
    return sorted(events, key=attrgetter("step"))


def _environment_rows(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    rows = []
    for key, value in (hide_paths(dict(environment)) if environment else {}).items():
        if isinstance(value, dict):
            rows += [(str(name), str(version)) for name, version in value.items()]
        else:
            rows.append((str(key), "none" if value is None else str(value)))
    return rows


def _version(environment: Mapping[str, Any] | None) -> str:
    version = _section(environment or {}, "versions").get("diffalign")
    return "" if version is None else str(version)


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _true_minus(text: str) -> str:
    """A typographic minus before digits, for numbers that people read and do not copy."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "\N{MINUS SIGN}", text)
