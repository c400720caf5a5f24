"""A name with options in one line, as commands take rewards and encoders: NAME or NAME:option=value,option=value.

Options of options have a dot: process.timeout=60.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from yaml import YAMLError

from diffalign.config.yaml_values import read_yaml
from diffalign.exceptions import ConfigError


def options_of_text(text: str, what: str = "reward", between: str = ",") -> tuple[str, dict[str, Any]]:
    """The name, and the options as YAML reads their values.

    Args:
        text: the line.
        what: it is of, for messages.
        between: the characters that options stand between.

    Raises:
        ConfigError: what stands after the colon are no options, or one is given both as a whole and in parts.

    Example:
        `options_of_text("scene:form=graded")`
    """
    name, _, told = text.partition(":")
    options: dict[str, Any] = {}
    for part in re.split(f"[{between}]", told) if told else ():
        key, sign, value = part.partition("=")
        if not sign and options:
            raise ConfigError(
                f"{what}: {text!r}: {part!r} is no option=value; where a value has a comma in it, name the {what} from "
                "Python or in a config, for here commas stand between options"
            )
        if not sign or not key.strip() or key.strip() in options:
            raise ConfigError(
                f"{what}: {text!r}: after the colon stand options, each once, as {name or 'NAME'}:option=value,option=value"
            )
        try:
            options[key.strip()] = read_yaml(value)
        except YAMLError:
            options[key.strip()] = value
    return name.strip(), _nested(options, f"{what}: {text!r}")


def _nested(flat: Mapping[str, Any], where: str) -> dict[str, Any]:
    """{"process.timeout": 60} becomes {"process": {"timeout": 60}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, setting = key.partition(".")
        if not dot:
            nested[key] = value
        elif section in flat:
            raise ConfigError(f"{where}: {section} stands there twice, as a whole and in parts")
        else:
            nested.setdefault(section, {})[setting] = value
    return nested
