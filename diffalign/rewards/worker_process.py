"""A worker process seen from its parent: started when it is needed, ended when it fails, and never left behind."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffalign import exceptions
from diffalign.exceptions import ConfigError, DataError, DiffalignError
from diffalign.rewards.frames import receive, send
from diffalign.rewards.protocol import Judged
from diffalign.rewards.wire import pack, pack_samples, read_judged, unpack
from diffalign.rewards.wire_media import Packed

_log = logging.getLogger(__name__)

_LOADING = 3600.0  # seconds: weights may have to be downloaded first
_PAUSES = (0.5, 4.0)  # seconds between starts that fail
_FAREWELL = 2.0  # seconds that a worker gets to end by itself
_LINES, _TAIL = 3, 400  # lines and characters of what it said last
# The very files of this package, whatever environment the interpreter has; -P: none from the folder that it starts in
_BOOT = """
import importlib.util, os, sys
told = importlib.util.spec_from_file_location(
    "diffalign", sys.argv[1], submodule_search_locations=[os.path.dirname(sys.argv[1])]
)
sys.modules["diffalign"] = importlib.util.module_from_spec(told)
told.loader.exec_module(sys.modules["diffalign"])
from diffalign.rewards._worker import main
main(int(sys.argv[2]))
"""
_PACKAGE = Path(__file__).parents[1] / "__init__.py"
_OF_ANOTHER = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")


class WorkerLost(Exception):
    """The worker gave no scores; the text says why, as what goes on after "the worker process"."""


class WorkerUnstartable(WorkerLost):
    """It could not be started, whatever it is asked."""


class Worker:
    """One worker process."""

    def __init__(self, reward: str, options: dict[str, Any], python: str | None, timeout: float) -> None:
        self._order = pack({"reward": reward, "options": options})
        self._reward, self._timeout = reward, timeout
        self._python = sys.executable if python is None else _interpreter(reward, python)
        self._environment = dict(os.environ)
        if python is not None:
            self._environment = {key: value for key, value in os.environ.items() if key not in _OF_ANOTHER}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._said: _Tail | None = None
        self._owner = 0
        self.stopped = threading.Event()  # set: it must not start again

    def facts(self) -> dict[str, Any]:
        """What the reward says of itself; starts the process.

        Raises:
            DiffalignError: what loading the reward raised.
            ConfigError: the process could not be started.
        """
        try:
            return self._start()
        except WorkerLost as lost:
            raise ConfigError(f"{self._reward}: its worker process {lost}") from None

    def ask(self, samples: Sequence[Packed]) -> list[Judged]:
        """What the reward says of each sample.

        Raises:
            WorkerLost: it did not.
        """
        if self._process is None or self._owner != os.getpid():  # a fork must not talk in its parent's name
            self._start_again()
        reply = self._exchange(pack_samples(samples), self._timeout)
        try:
            return read_judged(reply, "", len(samples))[1]
        except DataError as wrong:
            self.close(at_once=True)
            raise WorkerLost(f"answered what it should not: {wrong}") from None

    def _start_again(self) -> None:
        """Patiently: what killed it while it loaded, such as a lack of memory, may be over in a moment.

        Raises:
            WorkerUnstartable: it is not.
        """
        for pause in (*_PAUSES, None):
            try:
                self._start()
                return
            except DiffalignError as error:
                raise WorkerUnstartable(f"could not be started again: {error}") from None
            except WorkerUnstartable as lost:
                if pause is None or self.stopped.wait(pause):
                    raise
                _log.warning("%s: the worker process %s; trying again", self._reward, lost)

    def kill(self) -> None:
        """End it at once; whoever is talking with it finds it gone."""
        if self._process is not None and self._owner == os.getpid():
            try:
                os.killpg(self._process.pid, signal.SIGKILL)  # its own children too
            except (ProcessLookupError, PermissionError):
                self._process.kill()

    def close(self, *, at_once: bool = False) -> int:
        """End it and wait for that; its exit code, 0 if there was none."""
        process, channel, said = self._process, self._channel, self._said
        if process is None or channel is None or said is None:
            return 0
        channel.close()  # which it takes for the end
        if self._owner != os.getpid():
            self._process = None
            return 0
        if at_once:
            self.kill()
        try:
            code = process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self.kill()
            code = process.wait()
        self._process = self._channel = None
        said.wait()
        return code

    def _start(self) -> dict[str, Any]:
        if self.stopped.is_set():
            raise WorkerUnstartable("was stopped")
        self.close()
        self._owner = os.getpid()
        self._channel, its = socket.socketpair()
        self._said, out = _Tail.open(self._reward)
        command = [self._python, "-P", "-c", _BOOT, str(_PACKAGE), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command, stdin=its.fileno(), stdout=out, stderr=out, env=self._environment, start_new_session=True
            )
        except OSError as error:
            self._channel.close()
            raise WorkerUnstartable(f"could not be started: {error}") from None
        finally:
            its.close()
            os.close(out)
        try:
            return unpack(self._exchange(self._order, _LOADING))[0]
        except WorkerLost as lost:
            raise WorkerUnstartable(f"could not load the reward: it {lost}") from None

    def _exchange(self, message: bytes, seconds: float) -> bytes:
        """Its reply. Whatever goes wrong, nothing half-said stays in the channel: a process that failed is ended."""
        assert self._channel is not None and self._said is not None
        loading = message is self._order
        try:
            send(self._channel, message, seconds)
            reply = receive(self._channel, seconds)
            error = unpack(reply)[0].get("error")
        except TimeoutError:
            self.close(at_once=True)
            raise WorkerLost(f"gave no answer in {seconds:g} s, and was ended{self._said.told()}") from None
        except (EOFError, ConnectionError):
            code = self.close()
            raise WorkerLost(f"{_end(code)}{self._said.told()}") from None
        except DataError as wrong:
            self.close(at_once=True)
            raise WorkerLost(f"answered what it should not: {wrong}") from None
        except BaseException:
            self.close(at_once=True)
            raise
        if error is not None and loading:
            self.close()
            raise _raised(self._reward, error, self._said.told())
        if error is not None:
            raise WorkerLost(f"met an error, {error['kind']}: {error['text']}")
        return reply


def _interpreter(reward: str, python: str) -> str:
    found = shutil.which(python)
    if found is None:
        raise ConfigError(f"{reward}.process.python: {python!r} is no program; give the path of an interpreter")
    return found


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"died of signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"died of signal {-code}"


def _raised(reward: str, error: dict[str, str], said: str) -> DiffalignError:
    """The error that loading the reward raised there, to be raised here."""
    kind = vars(exceptions).get(error["kind"])
    if kind in (ConfigError, DataError, exceptions.MissingExtraError, exceptions.ShapeError):
        return kind(error["text"])
    return ConfigError(f"{reward}: could not be loaded in its process: {error['kind']}: {error['text']}{said}")


class _Tail:
    """The last that a process said, read by a thread of its own so that the process never waits for a reader."""

    def __init__(self, source: int, reward: str) -> None:
        self._source, self._reward, self._text = source, reward, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, reward: str) -> tuple[_Tail, int]:
        """With the end of a pipe for the process."""
        source, out = os.pipe()
        return cls(source, reward), out

    def _read(self) -> None:
        while more := os.read(self._source, 65536):
            self._text = (self._text + more)[-4 * _TAIL :]
            _log.debug("%s: %s", self._reward, more.decode(errors="replace").rstrip())
        os.close(self._source)

    def wait(self) -> None:
        """Until all is read; a child that outlives the process may keep the pipe open."""
        self._thread.join(_FAREWELL)

    def told(self) -> str:
        """As the end of a sentence."""
        lines = [line.strip() for line in self._text.decode(errors="replace").splitlines() if line.strip()]
        text = " | ".join(lines[-_LINES:])[-_TAIL:]
        return f"; the last it said: {text}" if text else ""
