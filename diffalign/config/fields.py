"""Types of values that several sections of the settings have."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


def is_text(text: str) -> bool:
    """Whether a file can hold it, and a file's name be it."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _path(text: str) -> str:
    if not text.strip():
        raise ValueError(f"must be a path or a name, got {text!r}; write null for none")
    return os.path.expanduser(text)


def _folder(text: str) -> str:
    return _path(text)


# what marks a field as either: see with_absolute_paths
IS_PATH, IS_FOLDER = AfterValidator(_path), AfterValidator(_folder)
LocalPath = Annotated[str, IS_PATH]  # a path, or a name of another kind; ~ is the home folder
OwnFolder = Annotated[str, IS_FOLDER]  # a folder that diffalign makes where it is missing
