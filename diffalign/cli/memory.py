"""What `check --memory` and `check --fit` print."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from diffalign.cli.console import results_console
from diffalign.config import RunConfig
from diffalign.config.yaml_values import write_yaml
from diffalign.exceptions import ConfigError

if TYPE_CHECKING:
    from diffalign.training.fitting import Proposal
    from diffalign.training.memory import MemoryEstimate

_UNITS = {"mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_size(text: str) -> int:
    """Bytes of a text such as 24GB, 24 GiB or 16384MB.

    Raises:
        ConfigError: it is no such size.
    """
    seen = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b)\s*", text, re.IGNORECASE)
    size = 0.0 if seen is None else float(seen[1]) * _UNITS.get(seen[2].lower(), 0)
    if size < 1:
        raise ConfigError(f"--fit: must be a size above 0 with its unit, such as 24GB, 24GiB or 16384MB, got {text!r}")
    return int(size)


def estimate_memory(
    config: RunConfig, limit: int | None, reload: Callable[[Sequence[str]], RunConfig]
) -> dict[str, Any]:
    """The estimate, and with a limit whether it fits and what to change, as JSON has it.

    Args:
        reload: the config with further overrides `a.b=c`.
    """
    from diffalign.training.fitting import propose
    from diffalign.training.memory import MemoryEstimator

    estimator = MemoryEstimator("cpu" if config.device == "cpu" else "cuda")
    found = estimator(config)
    facts = _facts(found)
    if limit is None:
        return facts
    facts |= {"limit": limit, "fits": found.needed() <= limit}
    proposals = propose(config, limit, estimator, lambda changes: reload(_overrides(changes)))
    facts["proposals"] = [_proposal(each) for each in proposals]
    facts["fits_then"] = (proposals[-1].estimate if proposals else found).needed() <= limit
    return facts


def _facts(estimate: MemoryEstimate) -> dict[str, Any]:
    return {
        "needed": estimate.needed(),
        "tensors": estimate.tensors(),
        "stages": {name: uses | {"needed": estimate.needed(name)} for name, uses in estimate.stages.items()},
        "disk_per_record": estimate.latent_bytes,
        "disk_per_prompt": estimate.text_bytes,
    }


def _proposal(proposal: Proposal) -> dict[str, Any]:
    return {"changes": proposal.changes, "why": proposal.why, "needed": proposal.estimate.needed()}


def _overrides(changes: dict[str, Any]) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in changes.items()]


def print_memory(facts: dict[str, Any]) -> None:
    """The table of parts, whether it fits, and what to set."""
    console = results_console(highlight=False, soft_wrap=True)
    stages: dict[str, dict[str, int]] = facts["stages"]
    table = Table(box=None, pad_edge=False)
    unit = "GB" if facts["needed"] >= 10**8 else "MB"
    table.add_column(f"{unit} at the peak of")
    for name in stages:
        table.add_column(name, justify="right")
    for use in dict.fromkeys(use for uses in stages.values() for use in uses if use != "needed"):
        table.add_row(use, *(_size(uses.get(use), unit) for uses in stages.values()))
    if any(uses["needed"] > sum(uses.values()) - uses["needed"] for uses in stages.values()):
        spare = [uses["needed"] - (sum(uses.values()) - uses["needed"]) for uses in stages.values()]
        table.add_row("allowance (a guess)", *(_size(each, unit) for each in spare))
    table.add_row("needed", *(_size(uses["needed"], unit) for uses in stages.values()), style="bold")
    console.print(table)
    on_disk = [f"{facts['disk_per_record'] / 1e6:.2f} MB a record"] if facts["disk_per_record"] else []
    on_disk.append(f"{facts['disk_per_prompt'] / 1e6:.2f} MB a prompt")
    console.print(f"cache on disk: {', '.join(on_disk)}")
    if "limit" in facts:
        _print_fit(console, facts)


def _print_fit(console: Console, facts: dict[str, Any]) -> None:
    limit = f"{facts['limit'] / 1e9:.2f}"
    if facts["fits"]:
        console.print(f"fits in {limit} GB: needs {_told(facts['needed'])}")
        return
    console.print(f"does not fit in {limit} GB: needs {_told(facts['needed'])}")
    changes: dict[str, Any] = {}
    for proposal in facts["proposals"]:
        changes |= proposal["changes"]
        said = " ".join(f"--set {each}" for each in _overrides(proposal["changes"]))
        console.print(f"  {_told(proposal['needed'])} with {said}  ({proposal['why']})", markup=False)
    if facts["fits_then"]:
        console.print("fits with all of these:")
    elif changes:
        console.print(
            f"nothing that check knows makes it fit in {limit} GB; the least that it found is with all of these:"
        )
    else:
        console.print(f"nothing that check knows makes it fit in {limit} GB")
    if changes:
        console.print(write_yaml(_nested(changes)).rstrip(), markup=False)


def _told(size: int) -> str:
    unit = "GB" if size >= 10**8 else "MB"
    return f"{_size(size, unit)} {unit}"


def _size(size: int | None, unit: str) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}" if unit == "GB" else f"{size / 1e6:.1f}"


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in changes.items():
        *sections, name = path.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested
