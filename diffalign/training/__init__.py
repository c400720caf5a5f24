"""Training: from settings to a run folder, and from there to files that others read."""

from diffalign.training.export import export
from diffalign.training.model_card import refresh_card
from diffalign.training.run import Run, load_run, resume, train

__all__ = ["Run", "export", "load_run", "refresh_card", "resume", "train"]
