"""`diffalign rewards selftest`: what any reward must be able to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from diffalign.cli.app import JsonOption, quiet_libraries
from diffalign.cli.rewards_app import rewards_app
from diffalign.exceptions import ConfigError, DataError, MissingExtraError


@rewards_app.command()
def selftest(
    names: Annotated[list[str] | None, typer.Argument(help="NAME[:option=value,...] each.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All rewards; those whose weights are not here are named.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check rewards: order and size of the batch, determinism, forms, sizes, odd prompts, NaN, precision, gradients.

    Exit code 1 if a check fails. Your own reward from Python: diffalign.rewards.self_test(reward).
    """
    quiet_libraries(["transformers"])
    from diffalign.cli.console import results_console
    from diffalign.reports import selftest_table
    from diffalign.rewards import REWARDS, SET_REWARDS, Check, any_reward_of_text, passed, self_test

    if every == bool(names):
        raise ConfigError("rewards selftest: give names, as `diffalign list rewards` shows them, or --all")
    found: dict[str, list[Check]] = {}
    with _quiet():
        for text in names or [*REWARDS, *SET_REWARDS]:
            try:
                found[text] = self_test(any_reward_of_text(text))
            except (ConfigError, DataError, MissingExtraError) as error:
                if not every:
                    raise
                found[text] = [Check("not run", None, str(error).splitlines()[0])]
    fine = {text: passed(checks) for text, checks in found.items()}
    if as_json:
        rows = {text: [asdict(check) for check in checks] for text, checks in found.items()}
        print(json.dumps({"passed": all(fine.values()), "rewards": rows}, indent=2, ensure_ascii=False))
    else:
        for text, checks in found.items():
            results_console().print(selftest_table(text, [(each.name, each.passed, each.detail) for each in checks]))
    if not all(fine.values()):
        raise typer.Exit(1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for every sample that cannot be scored: bad samples are what this is about."""
    loggers = [logging.getLogger(f"diffalign.rewards.{name}") for name in ("protocol", "set_protocol")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
