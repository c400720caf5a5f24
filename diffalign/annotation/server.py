"""The local web page on which people choose between two pictures, and what it asks of this process."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from diffalign.annotation.ballot import Ballot, checked_rater
from diffalign.annotation.comparisons import Plan, read_comparisons, read_plan, write_plan
from diffalign.annotation.summary import summarise
from diffalign.annotation.votes import VoteFile
from diffalign.exceptions import ConfigError, DataError, DiffalignError

log = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_NAMES_OF_THIS_MACHINE = (_HOST, "localhost")
_PARTS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_LARGEST_BODY = 65536  # bytes
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other page may show the pictures
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class AnnotationServer:
    """Shows a folder's comparisons on 127.0.0.1 and writes what people choose into its votes.jsonl.

        with AnnotationServer(Path("out")) as server:
            print(server.url)
            server.wait()

    The page is told neither file names nor sources, nor which picture is a and which is b. Requests must be addressed to
    this machine by name (a page elsewhere can point its own name at 127.0.0.1), and votes need the token of the page.
    """

    def __init__(self, folder: Path, plan: Plan | None = None, *, port: int = 0) -> None:
        """Read the folder, lock its votes and listen.

        Args:
            folder: as `read_comparisons` takes it.
            plan: which comparisons are shown; kept in the folder. None: the folder's own plan.
            port: of 127.0.0.1; 0 is a free one.

        Raises:
            ConfigError, DataError, SaveError: the folder cannot be shown, its votes not be written, or the port is taken.
        """
        self.folder = folder
        self.plan = read_plan(folder) if plan is None else plan
        comparisons = read_comparisons(folder, self.plan)
        self.token = secrets.token_hex(16)
        try:
            self._http = _Listener((_HOST, port), _Request)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--port: {port} cannot be used: {getattr(error, 'strerror', None) or error}") from None
        self._http.annotation = self
        self.url = f"http://{_HOST}:{self._http.server_address[1]}/"
        try:
            votes = VoteFile(folder, self.url)
            if self.plan != read_plan(folder):
                write_plan(folder, self.plan)
        except BaseException:
            self._http.server_close()
            raise
        self.ballot = Ballot(folder, comparisons, self.plan.seed, votes)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def __enter__(self) -> AnnotationServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address_for(self, rater: str | None) -> str:
        """The page's address, with a person's name in it so that the page does not ask."""
        return self.url if rater is None else f"{self.url}?rater={quote(checked_rater(rater))}"

    def wait(self) -> None:
        """Until `close` is called, or the process is interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # a wait without end would not see Ctrl-C everywhere

    def close(self) -> None:
        """End; votes that were acknowledged are on the disk."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self.ballot.votes.close()


def serve(
    folder: Path,
    plan: Plan | None = None,
    *,
    port: int = 0,
    announce: Callable[[AnnotationServer], object] | None = None,
) -> None:
    """Show the comparisons of a folder until Ctrl-C.

    Args:
        folder, plan, port: as `AnnotationServer` takes them.
        announce: told the server once it listens: its `url` is what people open.
    """
    with AnnotationServer(folder, plan, port=port) as server:
        if announce is not None:
            announce(server)
        try:
            server.wait()
        except KeyboardInterrupt:
            log.debug("interrupted")


class _Listener(ThreadingHTTPServer):
    annotation: AnnotationServer

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's would ask the network for this machine's name

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a page that is closed hangs up
            log.exception("a request from %s failed", client_address)


class _Request(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    timeout = 60.0

    def do_GET(self) -> None:
        annotation, address = self.server.annotation, urlsplit(self.path)
        if not self._is_addressed_to_us():
            return
        if address.path in _PARTS:
            name, kind = _PARTS[address.path]
            text = Path(__file__).with_name(name).read_text(encoding="utf-8").replace("{{ token }}", annotation.token)
            self._answer(HTTPStatus.OK, text.encode(), f"{kind}; charset=utf-8")
        elif address.path == "/session":
            rater = parse_qs(address.query).get("rater", [None])[0]
            self._try(lambda: annotation.ballot.session(None if rater is None else checked_rater(rater)))
        elif address.path == "/summary":
            self._try(lambda: asdict(summarise(annotation.ballot.counted())))
        elif address.path.startswith("/picture/"):
            self._send_picture(address.path)
        elif address.path == "/favicon.ico":  # browsers ask by themselves
            self._answer(HTTPStatus.NO_CONTENT, b"", "image/png")
        else:
            self._say(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        if not self._is_addressed_to_us():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            self.close_connection = True  # what it sends is not read
            self._say(HTTPStatus.BAD_REQUEST, "not a vote")
            return
        body = self.rfile.read(int(length))
        origin = self.headers.get("Origin")
        token = self.headers.get("X-Token", "")
        if origin not in (None, f"http://{self.headers['Host']}") or not secrets.compare_digest(
            token.encode("latin-1", "replace"), self.server.annotation.token.encode()
        ):
            self._say(HTTPStatus.FORBIDDEN, "this page is of an earlier start of diffalign annotate; reload it")
        elif self.path != "/vote":
            self._say(HTTPStatus.NOT_FOUND, "there is nothing here")
        else:
            self._try(lambda: self._vote(body))

    def _vote(self, body: bytes) -> dict[str, Any]:
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise DataError("not a vote: no JSON object")
        self.server.annotation.ballot.add(said)
        return {"saved": True}

    def _is_addressed_to_us(self) -> bool:
        """By a name of this machine, at any port: a tunnel may have another one."""
        host = self.headers.get("Host", "")
        name, _, port = host.partition(":")
        if name.lower() in _NAMES_OF_THIS_MACHINE and (not port or port.isdecimal()):
            return True
        self.close_connection = True
        self._say(HTTPStatus.FORBIDDEN, f"open http://{_HOST}: this page answers to no other name")
        return False

    def _send_picture(self, address: str) -> None:
        try:
            found = self.server.annotation.ballot.picture(address)
        except (DataError, OSError) as error:
            log.warning("%s", error)  # for whoever started it: the page must not learn the file's name
            self._say(HTTPStatus.NOT_FOUND, "this picture cannot be read; the terminal of diffalign annotate says why")
            return
        if found is None:
            self._say(HTTPStatus.NOT_FOUND, "there is no such picture")
        else:
            self._answer(HTTPStatus.OK, found[1], found[0], cache="private, max-age=86400")

    def _try(self, content: Callable[[], dict[str, Any]]) -> None:
        try:
            answer = content()
        except DiffalignError as error:
            wrong = isinstance(error, ConfigError | DataError)
            self._say(HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            self._answer(HTTPStatus.OK, json.dumps(answer).encode(), "application/json")

    def _say(self, status: HTTPStatus, problem: str) -> None:
        self._answer(status, json.dumps({"error": problem}).encode(), "application/json")

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, cache: str = "no-store") -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Cache-Control": cache}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        return "diffalign"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
