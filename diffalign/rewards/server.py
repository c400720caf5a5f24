"""Rewards over HTTP: what `diffalign rewards serve` runs.

    GET /health   {"status": "ok", "rewards": ["ocr", "clip"]}
    GET /spec     {"rewards": {"ocr": {"spec": {...}, "components": [...], "batch": null}, ...}}
    POST /score   a message of `wire`, kind application/x-diffalign, with the facts rewards (names) and samples; the reply
                  is a message with values, components and reasons of each sample by each reward

An error is {"error": text} with status 400 (message), 401 (token), 404, 411, 413 (size), 415 (kind), 500 or 503 (busy).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.http_call import is_loopback
from diffalign.rewards.http_reward import KIND
from diffalign.rewards.protocol import BatchReward, Sample
from diffalign.rewards.wire import pack_judged, read_samples, spec_facts

_log = logging.getLogger(__name__)

_SILENCE = 60.0  # seconds that a client may say nothing


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RewardServer(ThreadingHTTPServer):
    """A server of rewards; `serve_forever` runs it, `shutdown` ends it.

    Each reward judges one request at a time; requests of others wait, or are told to come back.
    """

    daemon_threads = True

    def __init__(
        self,
        rewards: Mapping[str, BatchReward],
        *,
        host: str = "127.0.0.1",
        port: int = 8300,
        token: str | None = None,
        largest: int = 2**28,
        waiting: int = 8,
    ) -> None:
        """Listen.

        Args:
            rewards: by the names under which they are asked.
            host: an address of this machine; 0.0.0.0 for all.
            port: 0: any that is free; `url` says which.
            token: what clients have to show; needed where other machines can reach the address.
            largest: bytes of a request.
            waiting: requests that are read at a time; more of them are told to come back (503).

        Raises:
            ConfigError: the address cannot be had, or is open to other machines without a token.
        """
        if not rewards:
            raise ConfigError("rewards: none were given to serve")
        if grouped := [name for name, reward in rewards.items() if reward.spec.grouped]:
            raise ConfigError(
                f"rewards: the scores of {', '.join(grouped)} go by the others of their group, and requests come in parts"
            )
        if not is_loopback(host) and not token:
            raise ConfigError(
                f"host: other machines can reach {host}, so that a token is needed: export one, and name its variable with "
                "--token-env"
            )
        self.rewards = dict(rewards)
        self.largest = largest
        self._token = token
        self._locks = {name: threading.Lock() for name in rewards}
        self._room = threading.BoundedSemaphore(waiting)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"host: cannot listen at {host}:{port}: {error}") from None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def admits(self, header: str | None) -> bool:
        """Whether a request shows the token."""
        wanted = f"Bearer {self._token}".encode()
        return self._token is None or hmac.compare_digest((header or "").encode(), wanted)

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Place for one request in memory."""
        if not self._room.acquire(blocking=False):
            raise _Refused(503, "too many requests at a time")
        try:
            yield
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("%s: lost", client_address, exc_info=True)  # a client that hangs up is none of ours

    def judge(self, message: bytes) -> bytes:
        """The reply to a message."""
        try:
            facts, samples = read_samples(message)
        except DataError as error:
            raise _Refused(400, str(error)) from None
        names = facts.get("rewards")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise _Refused(400, "rewards must be a list of names")
        unknown = [name for name in names if name not in self.rewards]
        if unknown:
            raise _Refused(404, f"{', '.join(unknown)} is not served here, but {', '.join(self.rewards)}")
        judged = {}
        for name in names:
            with self._locks[name]:
                judged[name] = _judged(self.rewards[name], samples)
        return pack_judged(judged, {name: self.rewards[name] for name in names})


def _judged(reward: BatchReward, samples: list[Sample]) -> list[Any]:
    try:
        return reward.judge_samples(samples)
    except Exception as error:  # whatever a reward does, the server goes on
        _log.exception("%s: could not score %d samples", reward.spec.name, len(samples))
        raise _Refused(500, f"{reward.spec.name}: {type(error).__name__}: {str(error)[:500]}") from None


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    server_version = "diffalign"
    sys_version = ""
    timeout = _SILENCE

    def do_GET(self) -> None:
        if self.path == "/health":
            self._tell({"status": "ok", "rewards": list(self.server.rewards)})
        elif not self.server.admits(self.headers.get("Authorization")):
            self._refuse(_Refused(401, "the token is missing or wrong"))
        elif self.path == "/spec":
            self._tell({"rewards": {name: spec_facts(reward) for name, reward in self.server.rewards.items()}})
        else:
            self._refuse(_Refused(404, "there are /health, /spec and /score"))

    def do_POST(self) -> None:
        try:
            length = self._length()
            with self.server.room():
                reply = self.server.judge(self._body(length))
        except _Refused as refused:
            self._refuse(refused)
        else:
            self._send(200, reply, KIND)

    def _length(self) -> int:
        if not self.server.admits(self.headers.get("Authorization")):
            raise _Refused(401, "the token is missing or wrong")
        if self.path != "/score":
            raise _Refused(404, "there are /health, /spec and /score")
        # a web page can send only plain kinds to another site unasked
        if self.headers.get_content_type() != KIND:
            raise _Refused(415, f"a message must be of kind {KIND}")
        told = self.headers.get("Content-Length", "")
        if not told.isdecimal() or "Transfer-Encoding" in self.headers:
            raise _Refused(411, "a message must come with its Content-Length")
        if int(told) > self.server.largest:
            raise _Refused(413, f"a message may have {self.server.largest} bytes, and this one has {told}")
        return int(told)

    def _body(self, length: int) -> bytes:
        try:
            body = self.rfile.read(length)
        except OSError:
            body = b""
        if len(body) < length:
            raise _Refused(400, f"the message should have {length} bytes, and ended before")
        return body

    def _refuse(self, refused: _Refused) -> None:
        self.close_connection = True  # a body that nobody read may still be on its way
        self._send(refused.status, json.dumps({"error": str(refused)}).encode(), "application/json")

    def _tell(self, facts: Mapping[str, Any]) -> None:
        self._send(200, json.dumps(facts, allow_nan=False).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        with contextlib.suppress(OSError):  # who has asked may be gone
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("%s %s", self.address_string(), format % args)
