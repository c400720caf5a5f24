"""What `list` and `check` print. Imports no torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diffalign.cli.console import results_console
from diffalign.cli.reward_facts import SET_REWARD_NAMES, reward_rows, told
from diffalign.config import RewardRunConfig, RunConfig
from diffalign.config.loading import config_summary, list_configs
from diffalign.config.model import FAMILIES, FLOW_FAMILIES
from diffalign.config.objectives import OBJECTIVE_PARAMS, ObjectiveFacts
from diffalign.config.sample_rewards import SHARED_SETTINGS, own_settings
from diffalign.config.samplers import SAMPLER_PARAMS
from diffalign.exceptions import ConfigError
from diffalign.zoo import list_zoo

Rows = list[dict[str, Any]]
_PAGES = {"flow_dpo": "diffusion_dpo"}  # objectives without a page of their own
_WIDE = 140  # columns of a terminal where an objective's records and paper stand in full


def show_list(what: str, name: str | None = None, *, as_json: bool) -> None:
    """Print one of the lists, or what it says of one name.

    Raises:
        ConfigError: no such list, or no such name in it.
    """
    lists: dict[str, Callable[[], Rows]] = {
        "objectives": _objectives,
        "rewards": reward_rows,
        "families": _families,
        "samplers": _samplers,
        "configs": lambda: [{"name": name, "what": config_summary(name)} for name in list_configs()],
        "zoo": _zoo,
    }
    if what not in lists:
        raise ConfigError(f"list: must be one of {', '.join(lists)}, got {what!r}{_hint(what, lists)}")
    rows = lists[what]()
    if name is not None:
        names = [row["name"] for row in rows]
        if name not in names:
            raise ConfigError(f"list {what}: must be one of {', '.join(names)}, got {name!r}{_hint(name, names)}")
        rows = [row for row in rows if row["name"] == name]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif name is not None:
        for key, value in rows[0].items():
            if value is not None:
                print(f"{key}: {told(key, value)}")
    elif what == "rewards":
        shown = ("name", "medium", "needs", "what")
        results_console().print(_table([{key: told(key, row[key]) for key in shown} for row in rows]))
    elif not rows:
        print(f"no {what} here")
    elif what == "objectives":
        _print_objectives()
    else:
        results_console().print(_table([{key: row[key] for key in row if key != "page"} for row in rows]))
    if what == "rewards" and not as_json and name not in SET_REWARD_NAMES:
        if name is None:
            print("with settings, range, licence and source: diffalign list rewards NAME")
        print(f"those of single samples also take {' and '.join(SHARED_SETTINGS)}: docs/rewards/remote.md")


def _hint(given: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(given, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _table(rows: Rows) -> Table:
    """One line a row; names are whole whatever the width."""
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        if column == "name":
            table.add_column(column, no_wrap=True, min_width=max(len(row[column]) for row in rows))
        else:
            table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def describe_config(config: RunConfig, *, as_json: bool, memory: dict[str, Any] | None = None) -> None:
    """Print what a valid config means for the batch; as JSON, with its memory."""
    training, members = config.training, _members(config)
    facts = {
        "name": config.name,
        "model": f"{config.model.family} {config.model.path}",
        "objective": config.objective.name,
        "layout": config.objective.layout,
        "data": config.data.kind,
        "members": members,
        "groups": training.groups,
        "accumulation": training.accumulation,
        "processes": training.processes,
        "groups_per_step": config.groups_per_step,
        "steps": training.steps,
        "groups_in_all": config.groups_per_step * training.steps,
        "samples_per_step": None if members is None else config.groups_per_step * members,
    }
    if as_json:
        print(json.dumps(facts if memory is None else facts | {"memory": memory}, indent=2))
        return
    each = "all members of a record" if members is None else f"{members} member{'s' if members > 1 else ''}"
    samples = "" if members is None else f", {facts['samples_per_step']} samples"
    console = results_console(highlight=False, soft_wrap=True)
    console.print(f"{config.name}: valid. {facts['objective']} on {facts['model']}", markup=False)
    console.print(
        f"one optimizer step: {training.groups} groups x {each} x {training.accumulation} "
        f"accumulation x {training.processes} process{'es' if training.processes > 1 else ''} "
        f"= {facts['groups_per_step']} groups{samples}"
    )
    console.print(f"the run: {training.steps} steps, {facts['groups_in_all']} groups in all")
    if config.online is not None:
        _describe_rounds(config, console)
    if memory is None:
        console.print("the settings alone were looked at: model and data are read by diffalign train")
    paths = {"data.path": config.data.path, "evaluation.prompts": config.evaluation.prompts}
    for setting, path in paths.items():
        if path is not None and "://" not in path and not Path(path).exists():
            console.print(f"not here yet: {setting}: {path}", markup=False)


def describe_reward_config(config: RewardRunConfig, *, as_json: bool) -> None:
    """Print what a valid config of `task: reward` means."""
    training, body = config.training, config.reward.body
    facts = {
        "name": config.name,
        "task": config.task,
        "body": body.name,
        "dimensions": list(config.reward.dimensions),
        "loss": config.loss.name,
        "data": config.data.kind,
        "held_out": config.data.held_out,
        "records_per_step": training.records,
        "steps": training.steps,
        "records_in_all": training.records * training.steps,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = results_console(highlight=False, soft_wrap=True)
    heads = ", ".join(config.reward.dimensions)
    console.print(f"{config.name}: valid. A reward, {body.name}, by {config.loss.name}; heads: {heads}", markup=False)
    console.print(f"one optimizer step: {training.records} records of {config.data.kind}, with all their pictures")
    console.print(f"the run: {training.steps} steps, {facts['records_in_all']} records in all")
    console.print(f"held out: {100 * config.data.held_out:g} % of the prompts")
    console.print("the settings alone were looked at: the data is read by diffalign train")
    if "://" not in config.data.path and not Path(config.data.path).exists():
        console.print(f"not here yet: data.path: {config.data.path}", markup=False)


def _describe_rounds(config: RunConfig, console: Console) -> None:
    online, training = config.online, config.training
    assert online is not None
    prompts = config.prompts_per_round
    steps = prompts * online.passes // config.groups_per_step
    drawn = prompts * (1 if config.objective.experts else online.members)
    console.print(
        f"a round: {drawn} pictures of {prompts} prompts, then {steps} step{'s' if steps > 1 else ''}; "
        f"{-(-training.steps // steps)} rounds, {-(-training.steps // steps) * drawn} pictures in all"
    )


def _members(config: RunConfig) -> int | None:
    """Members of a group as the settings know them; None: the records say, with all that they have."""
    if config.online is not None:
        return 2 if config.objective.layout == "pairs" else config.online.members
    return {"pairs": 2, "labelled": 1, "groups": config.data.members}[config.data.kind]


def _objectives() -> Rows:
    configs = set(list_configs())
    return [
        {
            "name": name,
            "train": "online" if params.online else "yes",
            "data": params.data,
            "models": params.families,
            "settings": _settings(params),
            "paper": params.paper,
            "page": f"docs/methods/{_PAGES.get(name, name)}.md",
            "quickstart": quickstart if quickstart in configs else None,
        }
        for params in OBJECTIVE_PARAMS
        for name in [params.model_fields["name"].default]
        for quickstart in [f"quickstart/{name}.yaml"]
    ]


def _print_objectives() -> None:
    """The table of objectives: records and papers in short, or in full where there is room."""
    console = results_console(highlight=False)
    wide = console.width >= _WIDE
    rows = [
        {
            "name": row["name"],
            "train": row["train"],
            "models": row["models"],
            "data": row["data"] if wide else _records(params),
            "paper": row["paper"] if wide else _citation(params.paper),
        }
        for row, params in zip(_objectives(), OBJECTIVE_PARAMS, strict=True)
    ]
    console.print(_table(rows))
    console.print("train: yes, from records or online; online, with the section `online` alone")
    console.print("in full, with settings: diffalign list objectives NAME")


def _records(params: type[ObjectiveFacts]) -> str:
    """What an objective learns from in two or three words: its `data` says it in full."""
    inputs = {*params.needs, *params.optional}
    scored = not inputs.isdisjoint({"reward", "advantage"})
    if params.online:
        return "prompts + reward" if scored else "prompts + preferences" if "preference" in inputs else "good samples"
    if "label" in inputs:
        return "labels or groups" if params.layout == "groups" else "labels or pairs"  # a pair is one good, one bad
    if scored:
        return f"{params.layout} + rewards"
    if "preference" in inputs:
        return f"{params.layout} + preferences"
    return "pairs or groups" if params.layout == "groups" else params.layout  # a pair is a group of 2


def _citation(paper: str) -> str:
    """First author and year; the preprint where no author is named; nothing where there is no paper."""
    if found := re.match(r"([\w-]+) et al\. (\d{4})", paper):
        return " ".join(found.groups())
    found = re.search(r"arXiv \d{4}\.\d+", paper)
    return found.group() if found else "-"


def _settings(params: Any) -> str:
    fields = {name: params.model_fields[name] for name in own_settings(params)}
    shown = (
        f"{name} (required)" if field.is_required() else f"{name}={field.default}" for name, field in fields.items()
    )
    return ", ".join(shown) or "-"


def _families() -> Rows:
    return [{"name": name, "kind": "linear flow" if name in FLOW_FAMILIES else "diffusion"} for name in FAMILIES]


def _samplers() -> Rows:
    return [
        {
            "name": params.model_fields["name"].default,
            "models": params.families,
            "order": params.order,
            "calls": params.calls,
            "noise": params.noise,
            "settings": _settings(params),
            "source": params.source,
            "page": "docs/samplers.md",
        }
        for params in SAMPLER_PARAMS
    ]


def _zoo() -> Rows:
    return [
        {
            "name": f"zoo://{model.name}",
            "family": model.card["family"],
            "MB": f"{sum(path.stat().st_size for path in model.folder.rglob('*') if path.is_file()) / 1e6:.1f}",
            "what": model.card["summary"],
        }
        for model in list_zoo()
    ]
