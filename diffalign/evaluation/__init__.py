"""Base against aligned, on the same prompts and seeds, with intervals: by rewards, and by people; and the score runner.

Whoever scores draws nothing: the libraries that draw are imported when `evaluate` or `check_quality` is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffalign.evaluation.blind import export_blind, import_votes
from diffalign.evaluation.fit_set import Fitted, fit_set
from diffalign.evaluation.reward_bench import Benched, bench_reward
from diffalign.evaluation.score_processes import score_in_processes
from diffalign.evaluation.score_records import Scored, score_records
from diffalign.evaluation.score_sets import score_sets
from diffalign.evaluation.statistics import (
    Interval,
    jackknife,
    outcomes,
    paired_bootstrap,
    prompt_means,
    win_rate,
)

if TYPE_CHECKING:
    from diffalign.evaluation.compare import check_quality, evaluate

__all__ = [
    "Benched",
    "Fitted",
    "Interval",
    "Scored",
    "bench_reward",
    "check_quality",
    "evaluate",
    "export_blind",
    "fit_set",
    "import_votes",
    "jackknife",
    "outcomes",
    "paired_bootstrap",
    "prompt_means",
    "score_in_processes",
    "score_records",
    "score_sets",
    "win_rate",
]


def __getattr__(name: str) -> Any:
    if name not in ("check_quality", "evaluate"):
        raise AttributeError(f"module 'diffalign.evaluation' has no attribute {name!r}")
    return getattr(import_module("diffalign.evaluation.compare"), name)
