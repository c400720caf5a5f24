"""The errors that diffalign raises.

DiffalignError
|- ConfigError (ValueError)        a setting is wrong; lists every problem with its dotted path
|- DataError (ValueError)          a record, picture or file is wrong; names the record
|- ShapeError (ValueError)         tensors do not fit together
|- MissingExtraError (ImportError) an optional library is not installed; says which extra has it
|- CheckpointError (RuntimeError)  a checkpoint or adapter cannot be read
|- SaveError (OSError)             something cannot be written, as on a full disk; what was saved before is unharmed
|- DivergenceError (ArithmeticError) a number went bad in training; names step, records and metric
|- HealthStop (RuntimeError)       an alarm that is set to stop rang; a checkpoint was saved
|- RunInterrupted (RuntimeError)   Ctrl-C or SIGTERM; a checkpoint was saved
|- RunPaused (RuntimeError)        an online run waits for votes of people; a checkpoint was saved
|- ProcessLostError (RuntimeError) another process of the run has ended
"""

from __future__ import annotations

import re


class DiffalignError(Exception):
    """Any error that diffalign raises on purpose: its text is written for the user.

    Attributes:
        spoken_for: whether another process of the same run tells the user, so that this one need not; None: not settled.
    """

    spoken_for: bool | None = None


class ConfigError(DiffalignError, ValueError):
    """A setting is wrong."""


class DataError(DiffalignError, ValueError):
    """A record, a picture or a file is wrong."""


class ShapeError(DiffalignError, ValueError):
    """Tensors do not fit together."""


class MissingExtraError(DiffalignError, ImportError):
    """An optional library is needed and not installed."""


class CheckpointError(DiffalignError, RuntimeError):
    """A checkpoint or adapter cannot be read."""


class SaveError(DiffalignError, OSError):
    """Something cannot be written; what was saved before is unharmed."""


class DivergenceError(DiffalignError, ArithmeticError):
    """A number went bad in training."""


class HealthStop(DiffalignError, RuntimeError):
    """An alarm of section `health` that is set to "stop" rang."""


class RunInterrupted(DiffalignError, RuntimeError):
    """A signal ended the run after a checkpoint was saved.

    Attributes:
        signal: the signal's number; shells expect the exit code 128 + signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = int(signal)


class RunPaused(DiffalignError, RuntimeError):
    """An online run waits for people to judge its pictures; a checkpoint was saved, and `resume` goes on."""


class ProcessLostError(DiffalignError, RuntimeError):
    """Another process of the run has ended, so that this one cannot go on."""


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a GPU's, or the CPU's, of which torch tells by a RuntimeError."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
