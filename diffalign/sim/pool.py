"""Many shapes in worker processes: one that crashes or hangs costs itself alone, and no answer goes by the others."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from diffalign.exceptions import DataError, DiffalignError
from diffalign.sim.intake import read_mesh
from diffalign.sim.simulate import Stability, simulate_stability
from diffalign.sim.solid import Shape

_CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy torch's threads


def simulate_many(
    shapes: Sequence[Shape | str | os.PathLike[str]],
    *,
    processes: int | None = None,
    limit: float = 60.0,
    up: Any = "auto",
    options: Mapping[str, Any] | None = None,
    work: Callable[..., Stability] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Stability]:
    """`simulate_stability` of each shape or file, in their order.

    Args:
        shapes: meshes, voxels, or paths of files.
        processes: workers; None: one a core; 0: this process, which a crash would end.
        limit: seconds of a clock after which a worker is held to hang, and is ended. A simulation takes milliseconds and is
            limited by its own steps; this is for libraries that never come back.
        up: of files, as in `read_mesh`.
        options: keyword arguments of `simulate_stability`, the same for all.
        work: another function of (shape, **options) in its place, importable by name.
        progress: called with (done, of how many).

    Returns:
        What became of each; of one that could not be read or simulated `stable` is None, with the reason.

    Raises:
        MissingExtraError: a library is not installed.
    """
    task = (work or simulate_stability, dict(options or {}), up)
    if processes == 0 or not shapes:
        found = []
        for number, shape in enumerate(shapes):
            found.append(_judged(shape, *task))
            if progress is not None:
                progress(number + 1, len(shapes))
        return found
    workers = min(processes or os.cpu_count() or 1, len(shapes))
    answers: dict[int, Stability] = {}
    waiting = iter(enumerate(shapes))
    pool = [_Worker(task) for _ in range(workers)]
    try:
        for worker in pool:
            worker.take(waiting)
        while len(answers) < len(shapes):
            busy = {each.pipe: each for each in pool if each.place is not None}
            soonest = min(each.since for each in busy.values()) + limit
            for pipe in wait(list(busy), timeout=max(0.0, soonest - time.monotonic())):
                worker = busy[pipe]  # type: ignore[index]
                answers[worker.number] = worker.answer()
                worker.take(waiting)
            for worker in busy.values():
                if worker.place is not None and time.monotonic() - worker.since > limit:
                    answers[worker.number] = Stability.failed(f"it was not done after {limit:g} s: given up")
                    worker.restart()
                    worker.take(waiting)
            if progress is not None:
                progress(len(answers), len(shapes))
    finally:
        for worker in pool:
            worker.end()
    return [answers[number] for number in range(len(shapes))]


def _judged(shape: Any, work: Callable[..., Stability], options: Mapping[str, Any], up: Any) -> Stability:
    try:
        if isinstance(shape, str | os.PathLike):
            shape = read_mesh(os.fspath(shape), up=up)
        return work(shape, **options)
    except DataError as error:
        return Stability.failed(str(error))
    except MemoryError:
        return Stability.failed("memory does not hold it")


def _serve(pipe: Connection, task: tuple[Callable[..., Stability], Mapping[str, Any], Any]) -> None:
    while (shape := pipe.recv()) is not None:
        try:
            pipe.send(_judged(shape, *task))
        except DiffalignError as error:
            pipe.send(error)


@dataclass
class _Worker:
    """A process, the shape that it has, and since when."""

    task: tuple[Callable[..., Stability], Mapping[str, Any], Any]
    place: int | None = None
    since: float = 0.0

    def __post_init__(self) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.task), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def number(self) -> int:
        assert self.place is not None
        return self.place

    def take(self, waiting: Iterator[tuple[int, Any]]) -> None:
        """The next shape, if there is one."""
        self.place, shape = next(waiting, (None, None))
        self.since = time.monotonic()
        if self.place is None:
            return
        try:
            self.pipe.send(shape)
        except OSError:  # it died between two shapes: the answer says so
            pass

    def answer(self) -> Stability:
        """What it says of its shape; a new process is in its place if it died.

        Raises:
            DiffalignError: what is wrong with all shapes, such as a missing library.
        """
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.restart()
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return Stability.failed(f"the process that simulated it died ({how})")
        if isinstance(found, DiffalignError):
            raise found
        assert isinstance(found, Stability)
        return found

    def restart(self) -> None:
        """A new process in the place of this one."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.__post_init__()

    def end(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
