"""What options of several commands mean, and errors that speak of options in the place of arguments and settings."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

from diffalign.config.model import Precision
from diffalign.exceptions import ConfigError


def checked_precision(precision: str | None) -> Precision | None:
    """The option's value.

    Raises:
        ConfigError: there is no such precision.
    """
    if precision is not None:
        one_of("--precision", precision, get_args(Precision))
    return cast("Precision | None", precision)


def one_of(option: str, told: str, known: Sequence[str]) -> Any:
    """The option's value.

    Raises:
        ConfigError: it is none of those that there are.
    """
    if told not in known:
        close = difflib.get_close_matches(told, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{option}: must be one of {', '.join(known)}, got {told!r}{hint}")
    return told


def checked_input(source: Path) -> Path:
    """What --input names, which must be there.

    Raises:
        ConfigError: it is not.
    """
    if not source.exists():
        raise ConfigError(f"--input: {source}: no such file or folder; give what generate or score wrote")
    return source


@contextmanager
def as_options(names: Collection[str], within: str = "") -> Iterator[None]:
    """What an error says of an argument, or of a setting of the section `within`, is said of the option of that name."""
    try:
        yield
    except ConfigError as error:
        setting, _, text = str(error).partition(": ")
        name = {"model.path": "model"}.get(setting, setting.removeprefix(within))
        if name not in names:
            raise
        raise ConfigError(f"--{name.replace('_', '-')}: {text}") from None
