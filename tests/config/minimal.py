"""The least that a config has, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffalign.config import parse_config
from diffalign.exceptions import ConfigError


def settings(**sections: Any) -> dict[str, Any]:
    """The least that a config has, with whole sections replaced."""
    base: dict[str, Any] = {
        "model": {"family": "sd3", "path": "zoo://shapes-sd3"},
        "data": {"path": "zoo://shapes-sd3/preferences"},
        "objective": {"name": "flow_dpo"},
        "optimizer": {"learning_rate": 1e-4},
        "training": {"steps": 10, "groups": 2},
    }
    return base | sections


def problems_of(*overrides: str, **sections: Any) -> list[str]:
    """The lines of the message after its heading; fails if there is no error."""
    with pytest.raises(ConfigError) as caught:
        parse_config(settings(**sections), overrides)
    heading, *lines = str(caught.value).splitlines()
    noun = "problem" if len(lines) == 1 else "problems"
    assert heading == f"{len(lines)} {noun} in the config"
    return [line.removeprefix("  ") for line in lines]


def refusal_of(*overrides: str, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(settings(**sections), overrides)
    return str(caught.value)


def config_file(folder: Path, text: str | bytes, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
