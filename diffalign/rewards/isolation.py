"""Rewards in worker processes: of another environment's interpreter, with a time limit, and restarted when they die."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diffalign.exceptions import ConfigError
from diffalign.rewards.protocol import Judged
from diffalign.rewards.remote_reward import RemoteReward, without_gradients
from diffalign.rewards.wire import read_spec
from diffalign.rewards.wire_media import Packed
from diffalign.rewards.worker_process import Worker, WorkerLost, WorkerUnstartable

_log = logging.getLogger(__name__)

_BATCH = 16  # samples of a message where the reward names no number: so many are tried again when a process dies


class IsolatedReward(RemoteReward):
    """A reward whose work is done by worker processes; scores, reasons and their order are those of the reward itself.

    When a worker dies, runs out of time or raises, it is started again and the samples that it had are tried once more, one
    by one: whichever fails again is unscored, with the reason. The workers end with this process, however it ends.
    """

    def __init__(
        self,
        reward: str,
        options: dict[str, Any],
        *,
        python: str | None = None,
        timeout: float = 300.0,
        workers: int = 1,
    ) -> None:
        """Start the workers; arguments as in `isolated`."""
        if not timeout > 0 or workers < 1:
            raise ConfigError(f"{reward}.process: timeout must be > 0 and workers >= 1, got {timeout} and {workers}")
        self._workers = [Worker(reward, options, python, timeout) for _ in range(workers)]
        self._end = weakref.finalize(self, _close, self._workers)  # at the latest when this process ends
        self._lock = threading.Lock()
        try:
            spec, self.components, batch = read_spec(self._workers[0].facts())  # the others start when they are needed
            if spec.grouped:
                raise ConfigError(
                    f"{reward}: its scores go by the others of their group, and a worker gets samples in parts; "
                    "use it in this process"
                )
        except BaseException:
            self._end()
            raise
        self.spec, self._size = without_gradients(spec), batch or _BATCH

    def close(self) -> None:
        """End the workers now; another call starts them again."""
        _close(self._workers)

    def ask(self, samples: Sequence[Packed]) -> list[Judged]:
        chunks = [samples[first : first + self._size] for first in range(0, len(samples), self._size)]
        with self._lock:
            if len(self._workers) == 1 or len(chunks) == 1:
                found = [self._judge(self._workers[0], chunk) for chunk in chunks]
            else:
                found = self._judge_side_by_side(chunks)
        return [judged for each in found for judged in each]

    def _judge_side_by_side(self, chunks: Sequence[Sequence[Packed]]) -> list[list[Judged]]:
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def judge(chunk: Sequence[Packed]) -> list[Judged]:
            worker = idle.get()
            try:
                return self._judge(worker, chunk)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            try:
                return list(threads.map(judge, chunks))
            except BaseException:  # such as Ctrl-C: the threads must not go on
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in self._workers:
                    worker.stopped.set()
                    worker.kill()
                threads.shutdown()
                for worker in self._workers:
                    worker.stopped.clear()
                raise

    def _judge(self, worker: Worker, samples: Sequence[Packed]) -> list[Judged]:
        try:
            return worker.ask(samples)
        except WorkerUnstartable as lost:
            return [f"the worker process {lost}"] * len(samples)
        except WorkerLost as lost:
            _log.warning(
                "%s: the worker process %s; its %d samples are tried again, one by one",
                self.spec.name,
                lost,
                len(samples),
            )
        judged: list[Judged] = []
        for sample in samples:
            try:
                judged += worker.ask([sample])
            except WorkerUnstartable as lost:
                return judged + [f"the worker process {lost}"] * (len(samples) - len(judged))
            except WorkerLost as lost:
                judged.append(f"twice, the last time by itself: the worker process {lost}")
        return judged


def _close(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.close()


def isolated(
    reward: str, *, python: str | None = None, timeout: float = 300.0, workers: int = 1, **options: Any
) -> IsolatedReward:
    """Make a reward that works in a process of its own.

    Args:
        reward: a name as `load_reward` takes it; or FILE.py:FUNCTION, a function of yours that returns a `BatchReward`.
        python: the interpreter of another environment, for libraries that clash with those here. It needs what
            `diffalign.rewards` imports (torch, numpy, pillow, pydantic, pyyaml, safetensors, jaxtyping), but not diffalign,
            whose files are those that run here; and it needs the reward's own libraries.
        timeout: seconds for one batch (the reward's own `batch`, else 16 samples).
        workers: processes, each with the reward loaded.
        options: of the reward, plain values.

    Raises:
        ConfigError: the interpreter does not work, the options are wrong, or the reward judges groups.
        DataError, MissingExtraError: as loading the reward here would.

    Example:
        `isolated("ocr", python="/opt/ocr/bin/python", timeout=60)(pictures, prompts)`
    """
    return IsolatedReward(reward, options, python=python, timeout=timeout, workers=workers)
