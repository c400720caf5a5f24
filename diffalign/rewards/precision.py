"""Scores do not depend on where they are made: a trainer's autocast to half precision ends where a reward begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast within: half precision moves the scores of models."""
    cuda = torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext()
    with torch.autocast("cpu", enabled=False), cuda:
        yield
