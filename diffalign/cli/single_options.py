"""What a command line says twice or too much: nothing of it is dropped without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from diffalign.exceptions import ConfigError


class _Command(TyperCommand):
    """A command that takes an option several times only where its help says so."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, extra, order = self.make_parser(ctx).parse_args(args=list(args))
        given = [each for each in order if isinstance(each, TyperOption) and not (each.is_flag or each.multiple)]
        if twice := [each for place, each in enumerate(given) if each in given[:place]]:
            raise ConfigError(
                f"{twice[0].opts[0]}: given {given.count(twice[0])} times, and it is one value; give it once"
            )
        if extra and all(Path(each).exists() for each in extra):
            raise ConfigError(
                f"{extra[0]}: one argument too many of {len(extra)}; if the shell has made them of a pattern, put that in "
                "quotes, as 'drawn/*.png'"
            )
        return super().parse_args(ctx, args)


class CommandLine(typer.Typer):
    """A typer app whose commands refuse a second value of an option that has one."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=_Command, **more)
