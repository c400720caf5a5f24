"""The score runner in several processes at once, started from one that watches them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from diffalign.data.picture_rows import read_pictures
from diffalign.evaluation.score_records import Scored, score_records
from diffalign.exceptions import ConfigError, DiffalignError, ProcessLostError
from diffalign.rewards.loading import guarded_reward_of_text, rewards_by_name


def score_in_processes(
    source: Path,
    out: Path,
    rewards: Sequence[str],
    processes: int,
    *,
    begin: Callable[[], None] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **settings: Any,
) -> Scored:
    """Score as `score_records` does, each of several processes its share; each loads the rewards for itself.

    With CUDA each process takes a device in turn, on a CPU its share of the cores. An error of one ends all; what they have
    scored is kept for the next call.

    Args:
        source, out: as of `score_records`.
        rewards: NAME or NAME:option=value,... each.
        processes: how many.
        begin: called first in every process; a function that can be imported.
        progress: called now and then with (pictures done, pictures), of all processes.
        settings: `components`, `prompt` and `batch` of `score_records`.

    Raises:
        ConfigError, DataError, MissingExtraError: of the first process that has one.
        ProcessLostError: a process was killed or failed.
    """
    if processes < 1:
        raise ConfigError(f"processes: must be 1 or more, got {processes}")
    total = sum(1 for _ in read_pictures(source, settings.get("prompt", "")))
    context = multiprocessing.get_context("spawn")  # a process with threads must not be forked
    ends: dict[Connection, int] = {}
    workers = []
    try:
        for rank in range(processes):
            here, there = context.Pipe()
            told = (there, source, out, tuple(rewards), rank, processes, begin, settings)
            workers.append(context.Process(target=_work, args=told, daemon=True))
            with _deaf():
                workers[-1].start()
            there.close()
            ends[here] = rank
        return _watched(ends, workers, total, progress)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        for here in ends:
            here.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started meanwhile takes no Ctrl-C, which every process of a terminal gets: the parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _watched(
    ends: Mapping[Connection, int],
    workers: Sequence[Any],
    total: int,
    progress: Callable[[int, int], object] | None,
) -> Scored:
    seen: dict[int, int] = {}
    done: dict[int, Scored] = {}
    open_ends = list(ends)
    while open_ends:
        for end in wait(open_ends):
            assert isinstance(end, Connection)
            rank = ends[end]
            try:
                told = end.recv()
            except EOFError:
                workers[rank].join()
                if rank not in done:
                    raise ProcessLostError(
                        f"process {rank} of {len(workers)} ended with exit code {workers[rank].exitcode}; what was scored "
                        "is kept: start again, with fewer processes or a smaller batch if memory ran out"
                    ) from None
                open_ends.remove(end)
                continue
            if isinstance(told, Exception):
                raise told
            if isinstance(told, Scored):
                done[rank] = told
                continue
            seen[rank] = told
            if progress is not None:
                progress(sum(seen.values()), total)
    last = next((each for each in done.values() if each.summary is not None), done[0])
    return Scored(
        last.file, sum(each.scored for each in done.values()), sum(each.known for each in done.values()), last.summary
    )


def _work(
    end: Connection,
    source: Path,
    out: Path,
    rewards: Sequence[str],
    rank: int,
    world: int,
    begin: Callable[[], None] | None,
    settings: Mapping[str, Any],
) -> None:
    threading.Thread(target=_leave_with_parent, args=(end,), daemon=True).start()
    try:
        if begin is not None:
            begin()
        _take_share(rank, world)
        done = score_records(
            source,
            out,
            rewards_by_name(rewards, guarded_reward_of_text),
            rank=rank,
            world=world,
            progress=lambda seen, total: end.send(seen),
            **settings,
        )
    except DiffalignError as error:
        end.send(error)
    else:
        end.send(done)


def _leave_with_parent(end: Connection) -> None:
    """Nothing ever comes from the parent but the end of it: then another call may begin, and this one must not be there."""
    try:
        end.recv()
    except (EOFError, OSError):
        os._exit(1)


def _take_share(rank: int, world: int) -> None:
    import torch

    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
