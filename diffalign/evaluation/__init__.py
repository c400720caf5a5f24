"""Base against aligned, on the same prompts and seeds, with intervals."""

from diffalign.evaluation.compare import evaluate
from diffalign.evaluation.statistics import Interval, outcomes, paired_bootstrap

__all__ = ["Interval", "evaluate", "outcomes", "paired_bootstrap"]
