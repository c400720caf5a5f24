"""Training: from settings to a run folder."""

from diffalign.training.run import Run, load_run, resume, train

__all__ = ["Run", "load_run", "resume", "train"]
