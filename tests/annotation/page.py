"""The page in a browser, as tests use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from diffalign.annotation import AnnotationServer


class Page:
    def __init__(self, browser: Any, server: AnnotationServer, until: Callable[..., Any]) -> None:
        self.browser, self.server, self._until = browser, server, until
        self.expected_errors = False

    def open(self, rater=None):
        self.browser.get(self.server.address_for(rater))
        if rater is not None:
            self.until_ready()

    def until(self, condition):
        return self._until(self.browser, lambda _: condition())

    def until_ready(self):
        """Until both pictures can be judged, or the end is shown."""
        waiting = "document.querySelector('.waiting')"
        self.until(lambda: self.shown("end") or (self.shown("judge") and not self.script(f"return !!{waiting}")))

    def script(self, text):
        return self.browser.execute_script(text)

    def find(self, name):
        return self.browser.find_element("id", name)

    def shown(self, name):
        return self.find(name).is_displayed()

    def text(self, name):
        return self.find(name).text

    def press(self, *keys):
        for key in keys:
            before = self.place()
            self.browser.switch_to.active_element.send_keys(key)
            self.until(lambda before=before: self.place() != before)
            self.until_ready()

    def place(self):
        """Where the page is: progress, the comparison, the end."""
        told = "document.getElementById"
        return self.script(f"return [{told}('count').textContent, {told}('status').textContent, {told}('end').hidden]")

    def lines(self):
        path = self.server.folder / "votes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
