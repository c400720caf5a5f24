"""Base against aligned, on the same prompts and seeds, with intervals: by rewards, and by people; and the score runner."""

from diffalign.evaluation.blind import export_blind, import_votes
from diffalign.evaluation.compare import check_quality, evaluate
from diffalign.evaluation.reward_bench import Benched, bench_reward
from diffalign.evaluation.score_records import Scored, score_records
from diffalign.evaluation.statistics import Interval, outcomes, paired_bootstrap, prompt_means, wilson, win_rate

__all__ = [
    "Benched",
    "Interval",
    "Scored",
    "bench_reward",
    "check_quality",
    "evaluate",
    "export_blind",
    "import_votes",
    "outcomes",
    "paired_bootstrap",
    "prompt_means",
    "score_records",
    "wilson",
    "win_rate",
]
