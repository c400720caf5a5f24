"""Ctrl-C and SIGTERM: finish the step, save, then end with the exit code that the shell expects."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)
_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Inside it the first signal only sets `received`; a second one ends at once (SIGINT raises, SIGTERM kills)."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in _WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            log.warning("SIGINT again: ended without saving; what was saved before is unharmed")
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        signal.signal(signal.SIGTERM, self._before[signal.SIGTERM])
        log.warning(
            "%s: finishing this step, then saving; a second one ends at once, without saving", self.received.name
        )

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}
