"""Options of options in one line: process.timeout=60."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffalign.exceptions import ConfigError


def nested_options(text: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose names have a dot, as mappings: {"process.timeout": 60} becomes {"process": {"timeout": 60}}.

    Args:
        text: the line that they stand in, for the message.
        flat: what was read of it.

    Raises:
        ConfigError: one is given both as a whole and in parts.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, setting = key.partition(".")
        if dot:
            if section in flat:
                raise ConfigError(f"reward: {text!r}: {section} stands there twice, as a whole and in parts")
            nested.setdefault(section, {})[setting] = value
        else:
            nested[key] = value
    return nested
