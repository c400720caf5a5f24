"""Base against aligned, on the same prompts and seeds, with intervals: by rewards, and by people who judge blindly."""

from diffalign.evaluation.blind import export_blind, import_votes
from diffalign.evaluation.compare import check_quality, evaluate
from diffalign.evaluation.statistics import Interval, outcomes, paired_bootstrap

__all__ = [
    "Interval",
    "check_quality",
    "evaluate",
    "export_blind",
    "import_votes",
    "outcomes",
    "paired_bootstrap",
]
