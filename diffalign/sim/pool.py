"""Many shapes in worker processes: one that crashes or hangs costs itself alone, and no answer goes by the others."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from diffalign.exceptions import ConfigError, DataError, DiffalignError, ProcessLostError
from diffalign.sim.intake import read_mesh
from diffalign.sim.simulate import Stability, simulate_stability
from diffalign.sim.solid import Shape

_CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
_START_LIMIT = 300.0  # seconds until a worker has started; on a laden machine its imports take long
_Task = tuple[Callable[..., Stability], Mapping[str, Any], Any]


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

    A script that calls it with worker processes does so under `if __name__ == "__main__":`, as they import it.

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
        What became of each; of one that could not be read or simulated `stable` is None, with the reason, which names the
        file where it was one.

    Raises:
        MissingExtraError: a library is not installed.
        ConfigError: options that `simulate_stability` does not have or take.
        ProcessLostError: the workers cannot start.
    """
    task = (work or simulate_stability, dict(options or {}), up)
    _check(task, processes, limit)
    if processes == 0 or not shapes:
        answers: dict[int, Stability] = {}
        for number, shape in enumerate(shapes):
            answers[number] = _judged(shape, *task)
            if progress is not None:
                progress(len(answers), len(shapes))
    else:
        answers = _in_workers(shapes, task, min(processes or os.cpu_count() or 1, len(shapes)), limit, progress)
    return [_naming(shape, answers[number]) for number, shape in enumerate(shapes)]


def _check(task: _Task, processes: int | None, limit: float) -> None:
    work, options, _ = task
    try:
        inspect.signature(work).bind(None, **options)
    except TypeError as error:
        raise ConfigError(f"options: {error}") from None
    if processes is not None and processes < 0:
        raise ConfigError(f"processes: must be >= 0, got {processes}")
    if not limit > 0:
        raise ConfigError(f"limit: must be > 0 seconds, got {limit}")


def _naming(shape: Any, found: Stability) -> Stability:
    if found.reason is None or not isinstance(shape, str | os.PathLike) or os.fspath(shape) in found.reason:
        return found
    return replace(found, reason=f"{os.fspath(shape)}: {found.reason}")


def _in_workers(
    shapes: Sequence[Any],
    task: _Task,
    workers: int,
    limit: float,
    progress: Callable[[int, int], object] | None,
) -> dict[int, Stability]:
    answers: dict[int, Stability] = {}
    waiting = iter(enumerate(shapes))
    pool: list[_Worker] = []
    try:
        pool += [_Worker(task, limit) for _ in range(workers)]
        while len(answers) < len(shapes):
            busy = {each.pipe: each for each in pool if each.busy}
            soonest = min(each.until for each in busy.values())
            for pipe in wait(list(busy), timeout=max(0.0, soonest - time.monotonic())):
                worker = busy[pipe]  # type: ignore[index]
                answers |= worker.answer()
                worker.take(waiting)
            for worker in busy.values():
                if worker.busy and time.monotonic() > worker.until:
                    answers |= worker.given_up()
            if progress is not None:
                progress(len(answers), len(shapes))
    finally:
        for worker in pool:
            worker.end()
    return answers


def _judged(shape: Any, work: Callable[..., Stability], options: Mapping[str, Any], up: Any) -> Stability:
    try:
        if isinstance(shape, str | os.PathLike):
            shape = read_mesh(os.fspath(shape), up=up)
        return work(shape, **options)
    except DataError as error:
        return Stability.failed(str(error))
    except MemoryError:
        return Stability.failed("memory does not hold it")
    except DiffalignError:
        raise
    except Exception as error:  # a shape that nobody thought of costs itself alone
        return Stability.failed(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def _serve(pipe: Connection, task: _Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one, and ends it
    pipe.send(None)  # it has started
    while True:
        try:
            pipe.send(_judged(pipe.recv(), *task))
        except DiffalignError as error:
            pipe.send(error)
        except (EOFError, OSError):
            return


@dataclass
class _Worker:
    """A process, the shape that it has, and until when it may take."""

    task: _Task
    limit: float

    def __post_init__(self) -> None:
        self.held: tuple[int, Any] | None = None  # the place and the shape that it has to do
        self._begin()

    def _begin(self) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.task), daemon=True)
        self.process.start()
        theirs.close()
        self.started, self.working, self.done = False, False, 0
        self.until = time.monotonic() + _START_LIMIT

    @property
    def busy(self) -> bool:
        """Whether something is to come from it."""
        return not self.started or self.working

    def take(self, waiting: Iterator[tuple[int, Any]]) -> None:
        """The next shape, if there is one and it is free."""
        if self.busy:
            return
        self.held = next(waiting, None) if self.held is None else self.held
        if self.held is None:
            return
        self.working, self.until = True, time.monotonic() + self.limit
        try:
            self.pipe.send(self.held[1])
        except OSError:  # it died between two shapes: the answer says so
            pass

    def answer(self) -> dict[int, Stability]:
        """What it says of its shape, or nothing where it has only started; a new process is in its place if it died.

        Raises:
            DiffalignError: what is wrong with all shapes, such as a missing library.
        """
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5.0)
            code = self.process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return self._lost(f"the process that simulated it died ({how})", how, again=self.done > 0)
        if isinstance(found, DiffalignError):
            raise found
        if found is None:
            self.started = True
            return {}
        assert isinstance(found, Stability)
        self.done += 1
        return self._let_go(found)

    def given_up(self) -> dict[int, Stability]:
        """That it was not done in time; a new process is in its place."""
        return self._lost(f"it was not done after {self.limit:g} s: given up", f"nothing after {_START_LIMIT:g} s")

    def _lost(self, reason: str, how: str, again: bool = False) -> dict[int, Stability]:
        """A new process; `again`: for the same shape, as the one before it may be what damaged the old one."""
        if not self.started:
            raise ProcessLostError(
                f"the processes that simulate cannot start ({how}; what they say is above). A script calls simulate_many "
                'under if __name__ == "__main__":, and `work` must be importable by its name; processes=0 does without them'
            )
        self.end()
        self._begin()
        return {} if again else self._let_go(Stability.failed(reason))

    def _let_go(self, found: Stability) -> dict[int, Stability]:
        assert self.held is not None
        (number, _), self.held, self.working = self.held, None, False
        return {number: found}

    def end(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
