"""The command line: parse, call, print. Results go to stdout, progress and logs to stderr.

Heavy imports stand inside the commands, so that `--help`, `list` and `check` answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys

from diffalign.cli.app import app
from diffalign.exceptions import (
    CheckpointError,
    ConfigError,
    DataError,
    DiffalignError,
    MissingExtraError,
    RunInterrupted,
)

__all__ = ["app", "main"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_LESS_MEMORY = (
    "take fewer training.groups with more training.accumulation, training.max_batch: 1, training.two_pass or "
    "model.gradient_checkpointing (docs/training.md); of pictures, a smaller evaluation.batch"
)


def main() -> None:
    """Run the command line; errors that diffalign raises on purpose become one message and an exit code."""
    first = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "diffusers", "transformers", "accelerate", "matplotlib", "fontTools", "PIL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        app()
    except RunInterrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except (ConfigError, DataError, MissingExtraError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except DiffalignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (*_FULL, *_UNUSABLE):
            raise
        what = f"{error.filename!s:.300}: {error.strerror}" if error.filename else error.strerror
        if error.errno in _UNUSABLE:
            print(f"error: {what}; give another path", file=sys.stderr)
            sys.exit(2)
        print(f"error: cannot write: {what}; free some space and start again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:  # torch's own OutOfMemoryError is a RuntimeError, and so is the CPU's
        if not isinstance(error, MemoryError) and not _MEMORY.search(str(error)):
            raise
        first = (str(error).splitlines() or [""])[0]
        print(f"error: out of memory ({first[:200]}); {_LESS_MEMORY}", file=sys.stderr)
        sys.exit(1)
