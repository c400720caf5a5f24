"""One question over HTTP: limits of time and size, retries where they can help, and a secret that nobody else is told."""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from diffalign.exceptions import ConfigError

_RETRIED = (408, 429, *range(500, 600))
_LONGEST_WAIT = 30.0  # seconds between two tries
_SHOWN = 300  # characters of a refusal
_CHUNK = 2**16


class NoAnswer(Exception):
    """There is none that could be used; the text says why.

    Attributes:
        status: of the server's answer; None where there was none.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class _Again(Exception):
    """The same question may be answered later."""

    def __init__(self, error: NoAnswer, wait: float | None = None) -> None:
        super().__init__()
        self.error, self.wait = error, wait


@dataclass(frozen=True)
class Caller:
    """How questions are asked of one server.

    Attributes:
        timeout: seconds for one answer, from the connection to its last byte.
        retries: after a lost connection, a timeout, or status 408, 429 or 5xx.
        backoff: seconds before the first retry; doubled each time, 30 at most. A server's Retry-After comes first.
        largest: bytes of an answer.
        secret: the environment variable with the bearer token; None: none is sent.
        stopped: set it, and nothing is tried again.
    """

    timeout: float
    retries: int
    backoff: float
    largest: int
    secret: str | None = None
    stopped: threading.Event = field(default_factory=threading.Event, compare=False)

    def check(self, setting: str) -> None:
        """Whether the secret is there.

        Raises:
            ConfigError: it is not; names the setting.
        """
        if self.secret is not None and not os.environ.get(self.secret, "").strip():
            raise ConfigError(f"{setting}: the environment variable {self.secret} is not set; export it first")

    def ask(self, url: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """The body of the answer: of POST with a body, of GET without.

        Raises:
            NoAnswer: after the last try.
        """
        for tried in range(self.retries + 1):
            try:
                return self._ask(url, body, kind)
            except _Again as again:
                wait = min(self.backoff * 2**tried, _LONGEST_WAIT) if again.wait is None else again.wait
                if tried == self.retries or self.stopped.wait(wait):
                    tries = f" ({tried + 1} tries)" if tried else ""
                    raise NoAnswer(f"{again.error}{tries}", again.error.status) from None
        raise AssertionError("the last try has raised")

    def _ask(self, url: str, body: bytes | None, kind: str) -> bytes:
        headers = {"Accept": "*/*", "User-Agent": "diffalign"} | ({} if body is None else {"Content-Type": kind})
        secret = "" if self.secret is None else os.environ.get(self.secret, "").strip()
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        request = urllib.request.Request(url, body, headers)
        end = time.monotonic() + self.timeout
        try:
            with _opener(url).open(request, timeout=self.timeout) as reply:
                return self._body(reply, end)
        except urllib.error.HTTPError as refusal:
            with refusal:
                error = NoAnswer(f"HTTP status {refusal.code}{_text(refusal, secret)}", refusal.code)
                if refusal.code not in _RETRIED:
                    raise error from None
                raise _Again(error, _seconds(refusal.headers.get("Retry-After"))) from None
        except TimeoutError:
            raise _Again(NoAnswer(f"no answer in {self.timeout:g} s")) from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Again(NoAnswer(f"no answer in {self.timeout:g} s")) from None
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise NoAnswer(f"its certificate is not trusted: {reason.verify_message}") from None
            raise _Again(NoAnswer(f"no connection ({type(reason).__name__}: {reason})")) from None

    def _body(self, reply: http.client.HTTPResponse, end: float) -> bytes:
        """All of it: the socket's own timeout starts anew with every byte."""
        found = bytearray()
        while more := reply.read1(_CHUNK):
            found += more
            if len(found) > self.largest:
                raise NoAnswer(f"the answer has more than {self.largest} bytes")
            if time.monotonic() > end:
                raise TimeoutError
        if reply.length:  # what read1, unlike read, does not mind
            raise http.client.IncompleteRead(bytes(found), reply.length)
        return bytes(found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the secret to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Of the environment's proxies, but not for this machine's own addresses."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(refusal: urllib.error.HTTPError, secret: str) -> str:
    try:
        told = refusal.read(4 * _SHOWN).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    told = " ".join((told.replace(secret, "***") if secret else told).split())[:_SHOWN]
    return f": {told}" if told else ""


def _seconds(told: str | None) -> float | None:
    """What Retry-After asks for, where it does so in seconds."""
    try:
        return None if told is None else min(max(float(told), 0.0), _LONGEST_WAIT)
    except ValueError:
        return None
