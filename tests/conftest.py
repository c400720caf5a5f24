"""What all tests share: no network, no window, no colour; and a seeded generator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
    import torch

# Before any library reads them; a value that is already set wins: HF_HUB_OFFLINE=0 pytest -m weights.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("DIFFALIGN_WHEELS", str(Path(__file__).parents[1] / ".venv" / "wheels"))  # where make puts them
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of several test processes would fight for the cores
# Command output is compared as text: rich must neither colour it (it does on CI hosts) nor fold it at 80 columns.
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "200"
for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: at the end one process would be alone with it."""
    items.sort(key=lambda item: item.path.name != "test_quickstarts.py")


@pytest.fixture
def generator() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Annotations are checked in tests only: this shows what a user sees who gets a type wrong."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
