"""Trainers of every offline objective, as its quickstart sets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffalign.config import RunConfig, load_config
from diffalign.objectives import OBJECTIVES
from diffalign.training.offline import OfflineTrainer
from diffalign.training.processes import build_trainer
from tests.training.tiny import tiny

OFFLINE = sorted(name for name, row in OBJECTIVES.items() if not row.params.online)


def quickstart(name: str, *overrides: str) -> RunConfig:
    return load_config(f"quickstart/{name}.yaml", overrides)


def settings(name: str) -> dict[str, Any]:
    """As the method's quickstart sets it: on the zoo's errors, of 0.01 to 1, the papers' beta saturates or does nothing."""
    return quickstart(name).objective.model_dump()


def families(name: str) -> list[str]:
    return ["sd3"] if OBJECTIVES[name].params.families == "flow" else ["sd", "sd3"]


QUICK = ("gdro", "diffusion_kto", "dspo")  # a group, a batch-wide statistic, residuals; the others are run by CI


def trainer_of(home: Path, name: str, family: str, **sections: Any) -> OfflineTrainer:
    sections = {"training": {"steps": 30, "groups": 8}} | sections
    return build_trainer(tiny(home, family=family, objective=settings(name), **sections))
