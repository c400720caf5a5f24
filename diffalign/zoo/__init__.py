"""The models that ship with diffalign, and where their files are. Imports no torch.

`zoo://NAME` is a diffusers pipeline folder, `zoo://NAME/held_out` its held-out prompts, and `zoo://NAME/preferences` its
preference set; a model whose own samples a program judges has `zoo://NAME/prompts` in its place. `python -m makers...`
rebuilds each from nothing; the model cards say how.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.exceptions import ConfigError

__all__ = ["ZooModel", "is_zoo", "list_zoo", "locate"]

_HOME = Path(__file__).resolve().parent
_PREFIX = "zoo://"
_FILES = {"preferences": "preferences.safetensors", "held_out": "held_out.txt", "prompts": "prompts.txt"}


@dataclass(frozen=True)
class ZooModel:
    """One shipped model: its name, folder and the facts of its card."""

    name: str
    folder: Path
    card: dict[str, Any]


def is_zoo(path: str) -> bool:
    """Whether a path is of the zoo."""
    return path.startswith(_PREFIX)


def list_zoo() -> list[ZooModel]:
    """All shipped models, by name."""
    cards = sorted(_HOME.glob("*/card.json"))
    return [ZooModel(card.parent.name, card.parent, json.loads(card.read_text(encoding="utf-8"))) for card in cards]


def locate(path: str) -> Path:
    """The folder of `zoo://name`, or the file of `zoo://name/preferences` or `zoo://name/held_out`.

    Raises:
        ConfigError: no such model or file; lists what there is.
    """
    name, _, part = path.removeprefix(_PREFIX).partition("/")
    names = [model.name for model in list_zoo()]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {_PREFIX}{close[0]}?" if close else ""
        raise ConfigError(f"{path}: the zoo has {', '.join(names)}{hint}")
    if not part:
        return _HOME / name
    if part not in _FILES:
        raise ConfigError(f"{path}: a zoo model has {', '.join(_FILES)}, not {part!r}")
    file = _HOME / name / _FILES[part]
    if not file.is_file():
        there = [key for key, each in _FILES.items() if (_HOME / name / each).is_file()]
        raise ConfigError(f"{path}: {name} ships without {part}; it has {' and '.join(there)}")
    return file
