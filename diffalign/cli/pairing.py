"""`diffalign pair`: from what stands on the command line to a pairing, and what came of it to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table

from diffalign.cli.console import results_console
from diffalign.cli.options import checked_input, one_of
from diffalign.cli.processes import process_of_all
from diffalign.data.judged import reward_columns, weights_of
from diffalign.data.pair import Aggregate, Paired, Pairing, RecordKind, pair_records
from diffalign.exceptions import ConfigError


def make_records(
    source: Path,
    out: Path,
    kind: str,
    rewards: Sequence[str],
    aggregate: str,
    smooth: str | None,
    settings: Mapping[str, Any],
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the records, and print what was kept and what was left out; the file's path comes last.

    Of several processes the first one does so, and the others nothing.

    Raises:
        ConfigError, DataError: as `pair_records`.
    """
    if process_of_all()[0] > 0:
        return
    checked_input(source)
    pairing = Pairing(
        kind=one_of("--kind", kind, get_args(RecordKind)),
        rewards={} if settings["votes"] is not None and not rewards else _rewards(source, rewards),
        aggregate=one_of("--aggregate", aggregate, get_args(Aggregate)),
        smooth=None if smooth is None else _two_numbers(smooth),
        **settings,
    )
    done = pair_records(source, out, pairing, overwrite=overwrite)
    _warn_of_one_label(pairing, done)
    if as_json:
        told = {"file": str(done.file), "kept": done.kept, "dropped": done.dropped, "notes": done.notes}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        results_console().print(_table(done, kind))
        print(done.file)


def _warn_of_one_label(pairing: Pairing, done: Paired) -> None:
    """Labels teach by contrast: where both kinds were asked for, one alone is hardly what was meant."""
    if pairing.kind != "labelled" or (pairing.good is None) != (pairing.bad is None):
        return
    for label in ("good", "bad"):
        if label not in done.notes:
            print(
                f"warning: none of the pictures is {label}; diffusion_kto, dso_dro and dragon need good and bad ones; "
                "change where they are cut: --good, --bad or --share",
                file=sys.stderr,
            )


def _table(done: Paired, kind: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row(f"{kind} written", str(done.kept), style="bold")
    for note, count in done.notes.items():
        table.add_row(f"  of them {note}", str(count))
    for reason, count in done.dropped.items():
        table.add_row(f"left out: {reason}", str(count), style="yellow")
    return table


def _rewards(source: Path, texts: Sequence[str]) -> dict[str, float]:
    """The columns asked for, or the only one that there is."""
    there = reward_columns(source)
    if texts:
        return weights_of(texts, there)
    if len(there) != 1:
        found = f"it has {', '.join(there)}" if there else "it has no scores yet: diffalign score makes them"
        raise ConfigError(f"--reward: say which column of {source} says what is better ({found})")
    return {there[0]: 1.0}


def _two_numbers(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--smooth: must be LOW,HIGH, as 0,1, got {text!r}") from None
    return low, high
