"""Base against aligned, on the same prompts and seeds, with intervals: by rewards, and by people; and the score runner."""

from diffalign.evaluation.blind import export_blind, import_votes
from diffalign.evaluation.compare import check_quality, evaluate
from diffalign.evaluation.fit_set import Fitted, fit_set
from diffalign.evaluation.score_processes import score_in_processes
from diffalign.evaluation.score_records import Scored, score_records
from diffalign.evaluation.score_sets import score_sets
from diffalign.evaluation.statistics import Interval, jackknife, outcomes, paired_bootstrap, prompt_means, win_rate

__all__ = [
    "Fitted",
    "Interval",
    "Scored",
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
