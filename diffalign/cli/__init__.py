"""The command line: parse, call, print. Results go to stdout, progress and logs to stderr.

Heavy imports stand inside the commands, so that `--help`, `list` and `check` answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time

from diffalign.cli import eval_command as _eval  # noqa: F401
from diffalign.cli import export as _export  # noqa: F401 (its command joins the app)
from diffalign.cli import people_commands as _people  # noqa: F401
from diffalign.cli import record_commands as _record_commands  # noqa: F401 (so do these)
from diffalign.cli import rewards_bench as _rewards_bench  # noqa: F401
from diffalign.cli import rewards_fetch as _rewards_fetch  # noqa: F401
from diffalign.cli import rewards_fit as _rewards_fit  # noqa: F401
from diffalign.cli import rewards_selftest as _rewards_selftest  # noqa: F401
from diffalign.cli import rewards_serve as _rewards_serve  # noqa: F401
from diffalign.cli.app import app
from diffalign.exceptions import (
    CheckpointError,
    ConfigError,
    DataError,
    DiffalignError,
    MissingExtraError,
    RunInterrupted,
    RunPaused,
    is_out_of_memory,
)

__all__ = ["app", "main"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS)
_LESS_MEMORY = (
    "take fewer training.groups with more training.accumulation, training.max_batch: 1, training.two_pass or "
    "model.gradient_checkpointing (docs/training.md); of pictures, a smaller evaluation.batch"
)
# seconds: processes on one machine read a config and import torch at the same time, but not at one pace
_PATIENCE = 15.0


def main() -> None:
    """Run the command line; errors that diffalign raises on purpose become one message and an exit code."""
    first = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "diffusers", "transformers", "accelerate", "matplotlib", "fontTools", "PIL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        app()
    except RunInterrupted as stop:
        _say(str(stop), stop)
        sys.exit(128 + stop.signal)
    except RunPaused as pause:
        _say(str(pause), pause)
        sys.exit(75)  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later
    except DiffalignError as error:
        _say(f"error: {error}", error)
        wrong = ConfigError | DataError | MissingExtraError | CheckpointError
        sys.exit(2 if isinstance(error, wrong) else 1)
    except OSError as error:
        if error.errno not in (*_FULL, *_UNUSABLE):
            raise
        what = f"{error.filename!s:.300}: {error.strerror}" if error.filename else error.strerror
        if error.errno in _UNUSABLE:
            _say(f"error: {what}; give another path", error)
            sys.exit(2)
        _say(f"error: cannot write: {what}; free some space and start again", error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        told = str(error).partition("\n")[0]
        _say(f"error: out of memory ({told[:200]}); {_LESS_MEMORY}", error)
        sys.exit(1)


def _say(text: str, error: Exception) -> None:
    """Tell the user, once: of several processes those that share a run have settled who speaks.

    Before they do, what is wrong is mostly wrong for all, and the first on each machine speaks. The others give it time: as
    soon as one has ended, the launcher ends the rest. Whoever is still there then speaks for itself.
    """
    spoken_for = getattr(error, "spoken_for", None)  # of a library's error too, where processes have settled it
    if spoken_for is None and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_PATIENCE)
    if not spoken_for:
        print(text, file=sys.stderr, flush=True)
