"""A real HTTP server that answers as an OpenAI-compatible endpoint does, or as one in trouble: the prompt says how."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

KEY = "sk-secret-of-the-tests"
MODELS = ("judge", "UnifiedReward")
TEXTS = {
    "good": "The circle is red. Score: 5",
    "bold": "Well. **Score**: 3.5",
    "twice": "The prompt says Score: 5, but this is no circle.\nScore: 2",
    "unified": "red (attribute): 1\ncircle (object): 0\nFinal Score: 2.33",
    "aspects": "Alignment Score (1-5): 2.5\nCoherence Score (1-5): 3.5\nStyle Score (1-5): 4.5",
    "no style": "Alignment Score (1-5): 2.5\nCoherence Score (1-5): 3.5",
    "nothing": "I cannot judge pictures of " + "circles " * 60,
    "too much": "Score: 45",
}
TOKENS = {
    "sure": {"Yes": 0.5, " yes": 0.2, "YES": 0.1, "No": 0.1, "no.": 0.1},
    "only yes": {"Yes": 0.9, "The": 0.1},
    "neither": {"The": 0.9, "A": 0.05},
}


class ChatServer(ThreadingHTTPServer):
    """Serves from the moment that it is entered; `asked` are the requests so far, `at_once` the most at one time."""

    daemon_threads = True

    def __init__(self, key: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key, self.asked, self.tries = key, [], Counter()
        self.now = self.at_once = 0
        self.lock, self.released = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._is_admitted():
            known = self.path == "/v1/models"
            self._send(200 if known else 404, {"data": [{"id": name} for name in MODELS]} if known else {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(asked)
            self.server.now += 1
            self.server.at_once = max(self.server.at_once, self.server.now)
        self.counted = True
        if self._is_admitted():
            self._answer(asked)
        self._leave()

    def _leave(self) -> None:
        """Before the last byte goes: whoever has it may ask again at once."""
        with self.server.lock:
            self.server.now -= self.counted
        self.counted = False

    def _is_admitted(self) -> bool:
        if self.server.key in (None, self.headers.get("Authorization", "").removeprefix("Bearer ")):
            return True
        self._send(401, {"error": f"{self.headers['Authorization']} is no key"})
        return False

    def _answer(self, asked: dict[str, Any]) -> None:
        text = asked["messages"][0]["content"][1]["text"]
        case = next((name for name in (*TEXTS, *TOKENS, *_TROUBLE) if f"<{name}>" in text), "good")
        self.server.tries[case] += 1
        if case in _TROUBLE:
            return _TROUBLE[case](self, self.server.tries[case])
        if case in TOKENS:
            top = [{"token": token, "logprob": math.log(each)} for token, each in TOKENS[case].items()]
            found = {"content": [{"top_logprobs": top}]}
            return self._complete({"message": {"content": top[0]["token"]}, "logprobs": found})
        if case == "good":  # a moment, so that others can be there at the same time
            time.sleep(0.05)
        return self._complete({"message": {"content": TEXTS[case]}, "finish_reason": "stop"})

    def _complete(self, choice: dict[str, Any]) -> None:
        self._leave()
        self._send(200, {"choices": [choice]})

    def _busy(self, tries: int) -> None:
        if tries < 3:
            self._send(429 if tries == 1 else 503, {"error": "slow down"}, {"Retry-After": "0.01"})
        else:
            self._complete({"message": {"content": TEXTS["good"]}})

    def _hang(self, tries: int) -> None:
        self.server.released.wait(20)

    def _drip(self, tries: int) -> None:
        """A byte now and then: each is there before the socket's own timeout."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.released.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                break

    def _huge(self, tries: int) -> None:
        try:
            self._complete({"message": {"content": "Score: 5 " * 2**20}})
        except OSError:
            pass

    def _cut(self, tries: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def _send(self, status: int, facts: Any, headers: dict[str, str] | None = None) -> None:
        body = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


_TROUBLE = {
    "busy": _Handler._busy,
    "hang": _Handler._hang,
    "drip": _Handler._drip,
    "huge": _Handler._huge,
    "cut": _Handler._cut,
    "bad request": lambda handler, _: handler._send(400, {"error": f"no pictures; {KEY}"}),
    "down": lambda handler, _: handler._send(500, b"<html>oh dear</html>"),
    "page": lambda handler, _: handler._send(200, b"<html>Welcome to nginx</html>"),
    "empty": lambda handler, _: handler._send(200, {"choices": []}),
    "no text": lambda handler, _: handler._complete({"message": {"content": None}}),
    "long": lambda handler, _: handler._complete({"message": {"content": "Let me think"}, "finish_reason": "length"}),
    "elsewhere": lambda handler, _: handler._send(302, {}, {"Location": "/v1/models"}),
}


def picture_of(asked: dict[str, Any]) -> Image.Image:
    """What the request shows."""
    kind, _, data = asked["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
