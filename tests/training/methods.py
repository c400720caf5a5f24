"""Trainers of every offline objective, as its quickstart sets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffalign.config import RunConfig, load_config
from diffalign.objectives import OBJECTIVES
from diffalign.training.build_trainer import build_trainer
from diffalign.training.offline import OfflineTrainer
from tests.training.tiny import tiny

OFFLINE = sorted(name for name, row in OBJECTIVES.items() if not row.params.online)


OF_RECORDS = {"dso_dro": "dso_dro_scenes"}  # whose own quickstart draws shapes


def quickstart(name: str, *overrides: str) -> RunConfig:
    return load_config(f"quickstart/{name}.yaml", overrides)


def of_records(name: str, *overrides: str) -> RunConfig:
    """The method's quickstart on records of the zoo's pictures."""
    return quickstart(OF_RECORDS.get(name, name), *overrides)


def settings(name: str, family: str | None = None) -> dict[str, Any]:
    """As the method's quickstart sets it: on the zoo's errors, of 0.01 to 1, the papers' beta saturates or does nothing.

    On the other family than the quickstart's, beta is moved by as much as Diffusion-DPO's is to Flow-DPO's.
    """
    config = of_records(name)
    found = config.objective.model_dump()
    if family not in (None, config.model.family) and "beta" in found:
        betas = {"sd": quickstart("diffusion_dpo").objective.beta, "sd3": quickstart("flow_dpo").objective.beta}
        found["beta"] *= betas[str(family)] / betas[config.model.family]
    return found


def records(name: str) -> dict[str, Any]:
    """The quickstart's section `data` without where the records are."""
    return of_records(name).data.model_dump(include={"kind", "reward_range", "pairs_per_group"})


def families(name: str) -> list[str]:
    return ["sd3"] if OBJECTIVES[name].params.families == "flow" else ["sd", "sd3"]


QUICK = ("gdro", "diffusion_kto", "dspo")  # a group, a batch-wide statistic, residuals; the others are run by CI


def trainer_of(home: Path, name: str, family: str, **sections: Any) -> OfflineTrainer:
    sections = {"training": {"steps": 30, "groups": 8}, "data": records(name)} | sections
    return build_trainer(tiny(home, family=family, objective=settings(name, family), **sections))
