"""What `list` and `check` print. Imports no torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from diffalign.config import RunConfig
from diffalign.config.loading import list_configs
from diffalign.config.objectives import OBJECTIVE_PARAMS
from diffalign.config.rewards import REWARD_PARAMS
from diffalign.config.run import FLOW_FAMILIES, ModelConfig
from diffalign.config.samplers import DDIMParams, FlowEulerParams
from diffalign.exceptions import ConfigError
from diffalign.zoo import list_zoo

Rows = list[dict[str, Any]]


def show_list(what: str, *, as_json: bool) -> None:
    """Print one of the lists.

    Raises:
        ConfigError: no such list.
    """
    lists: dict[str, Callable[[], Rows]] = {
        "objectives": _objectives,
        "rewards": _rewards,
        "families": _families,
        "samplers": _samplers,
        "configs": lambda: [{"name": name} for name in list_configs()],
        "zoo": _zoo,
    }
    if what not in lists:
        close = difflib.get_close_matches(what, lists, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"list: must be one of {', '.join(lists)}, got {what!r}{hint}")
    rows = lists[what]()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"no {what} here")
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


def describe_config(config: RunConfig, *, as_json: bool) -> None:
    """Print what a valid config means for the batch."""
    training = config.training
    facts = {
        "name": config.name,
        "model": f"{config.model.family} {config.model.path}",
        "objective": config.objective.name,
        "layout": config.objective.layout,
        "members": {"points": 1, "pairs": 2}.get(config.objective.layout, 2),
        "groups": training.groups,
        "accumulation": training.accumulation,
        "processes": training.processes,
        "groups_per_step": config.groups_per_step,
        "steps": training.steps,
        "groups_in_all": config.groups_per_step * training.steps,
    }
    facts["samples_per_step"] = facts["groups_per_step"] * facts["members"]  # type: ignore[operator]
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{config.name}: valid. {facts['objective']} on {facts['model']}")
    console.print(
        f"one optimizer step: {training.groups} groups x {facts['members']} members x {training.accumulation} "
        f"accumulation x {training.processes} process{'es' if training.processes > 1 else ''} "
        f"= {facts['groups_per_step']} groups, {facts['samples_per_step']} samples"
    )
    console.print(f"the run: {training.steps} steps, {facts['groups_in_all']} groups in all")


def _objectives() -> Rows:
    return [
        {
            "name": params.model_fields["name"].default,
            "data": params.data,
            "models": params.families,
            "settings": _settings(params),
            "paper": params.paper,
        }
        for params in OBJECTIVE_PARAMS
    ]


def _settings(params: Any) -> str:
    fields = {name: field.default for name, field in params.model_fields.items() if name != "name"}
    return ", ".join(f"{name}={value}" for name, value in fields.items()) or "-"


def _rewards() -> Rows:
    return [
        {
            "name": params.model_fields["name"].default,
            "settings": _settings(params),
            "what": (params.__doc__ or "").split("\n")[0],
        }
        for params in REWARD_PARAMS
    ]


def _families() -> Rows:
    names = get_args(ModelConfig.model_fields["family"].annotation)
    return [{"name": name, "kind": "linear flow" if name in FLOW_FAMILIES else "diffusion"} for name in names]


def _samplers() -> Rows:
    return [
        {"name": params.model_fields["name"].default, "settings": _settings(params)}
        for params in (DDIMParams, FlowEulerParams)
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
