"""A run that is killed again and again, each time in a new process, and looked at from outside."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from diffalign.config import RunConfig

CHECKOUT = Path(__file__).parents[2]
_PATIENCE = 120.0  # seconds, for one life to come as far as it is waited for
# its server has imported torch once: a life begins within a second, in a process with one thread and no locks held
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.end_to_end.warm"])


def _train(config: RunConfig) -> None:
    from diffalign.training import train

    train(config, progress=False)


def _resume(folder: Path) -> None:
    from diffalign.training import resume

    resume(folder, progress=False)


def begin(target: Callable[[Any], None], argument: Any) -> BaseProcess:
    """A life of a run."""
    process = _SERVER.Process(target=target, args=(argument,))
    with mock.patch.dict(os.environ, PYTHONPATH=str(CHECKOUT), OMP_NUM_THREADS="1"):  # for the server, at its start
        process.start()
    return process


def train_until(config: RunConfig, home: Path) -> tuple[BaseProcess, Path]:
    """The first life, and its run folder."""
    process = begin(_train, config)
    wait(process, lambda: bool(list((home / "runs").glob("*/metrics.jsonl"))))
    (folder,) = (home / "runs").iterdir()
    return process, folder


def resume_again(folder: Path) -> BaseProcess:
    """The next life."""
    return begin(_resume, folder)


def wait(process: BaseProcess, seen: Callable[[], bool]) -> None:
    """Look until something is to be seen, or the process has ended."""
    deadline = time.monotonic() + _PATIENCE
    while not seen() and process.is_alive():
        assert time.monotonic() < deadline, "it came nowhere"
        time.sleep(0.0005)


def kill(process: BaseProcess) -> bool:
    """kill -9; whether it was still alive."""
    process.kill()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0), process.exitcode  # nothing else ever ends it
    return process.exitcode != 0


def lines(folder: Path) -> int:
    """How much is in its log."""
    log = folder / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def any_of(folder: Path, pattern: str) -> Callable[[], bool]:
    """Whether there is something of that name."""
    return lambda: any(folder.glob(pattern))


def moments(count: int, targeted: int, seed: int) -> list[str]:
    """Which lives end at any moment, and which while a checkpoint is written: drawn anew for every seed."""
    kinds = ["partial"] * targeted + ["log", "log", "load"] * count
    kinds = kinds[:count]
    random.Random(seed).shuffle(kinds)
    return kinds
