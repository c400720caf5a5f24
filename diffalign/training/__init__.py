"""Training: from settings to a run folder, and from there to files that others read."""

from diffalign.training.export import export
from diffalign.training.model_card import refresh_card
from diffalign.training.reward_run import RewardRun
from diffalign.training.run import Run, load_run
from diffalign.training.tasks import resume, train

__all__ = ["RewardRun", "Run", "export", "load_run", "refresh_card", "resume", "train"]
