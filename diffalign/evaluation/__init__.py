"""Base against aligned, on the same prompts and seeds, with intervals."""

from diffalign.evaluation.compare import check_quality, evaluate
from diffalign.evaluation.statistics import Interval, outcomes, paired_bootstrap

__all__ = ["Interval", "check_quality", "evaluate", "outcomes", "paired_bootstrap"]
