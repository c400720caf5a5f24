"""Folders to annotate, votes by hand, and a browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffalign.annotation import AnnotationServer, Vote
from tests.annotation.page import Page


def draw(path: Path, number: int, size: int = 32) -> None:
    """A picture of one colour, so that each is recognisable by its pixels."""
    Image.new("RGB", (size, size), (number * 37 % 256, number * 91 % 256, number * 53 % 256)).save(path)


def make_folder(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A folder of these rows, and of the pictures that they name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = [name for row in rows for name in names_of(row)]
    for number, name in enumerate(dict.fromkeys(names)):
        draw(folder / name, number)
    return folder


def names_of(row: dict[str, Any]) -> list[str]:
    return row.get("items") or [row[key] for key in ("file_name", "chosen", "rejected") if key in row]


def drawn(prompts: Sequence[str], count: int, sources: Sequence[str] = ("model",)) -> list[dict[str, Any]]:
    """Rows as `diffalign generate` writes them; every source has the same seeds."""
    rows = []
    for source in sources:
        for seed, prompt in enumerate(prompt for prompt in prompts for _ in range(count)):
            name = f"{len(rows):06d}"
            rows.append({"id": name, "file_name": f"{name}.png", "prompt": prompt, "seed": seed, "source": source})
    return rows


def vote(comparison: str, choice: str, rater: str = "anna", order: str = "ab", seconds: float = 1.0) -> Vote:
    return Vote(comparison, "p", "0.png", "1.png", choice, rater, order, seconds, "2026-01-01T12:00:00Z")  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three prompts, two pictures of each."""
    return make_folder(tmp_path / "out", drawn(["a red circle", "two crosses", "a blue square"], 2))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, by selenium; CI has it, elsewhere tests without one are skipped."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in found.items() if path is None]:
        reason = f"{' and '.join(missing)} not found (Debian: apt-get install chromium chromium-driver)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    webdriver = pytest.importorskip("selenium.webdriver") if os.environ.get("CI") != "true" else _webdriver()
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
    for flag in (
        *flags.split(),
        "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
        "window-size=1200,900",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(found["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def _webdriver() -> Any:
    from selenium import webdriver

    return webdriver


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for something that a page does by itself."""
    from selenium.webdriver.support.ui import WebDriverWait

    return lambda driver, condition: WebDriverWait(driver, 20, poll_frequency=0.02).until(condition)


@pytest.fixture
def page(browser, folder, until):
    """The page for Anna, and ways to use it."""
    with AnnotationServer(folder) as server:
        page = Page(browser, server, until)
        browser.get_log("browser")  # an earlier page's
        page.open("anna")
        yield page
        noise = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        browser.execute_script("localStorage.clear()")
        assert page.expected_errors or noise == []
