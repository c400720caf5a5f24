"""`diffalign annotate`: people compare the pictures of a folder."""

from __future__ import annotations

import json
import os
import shlex
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffalign.cli.app import JsonOption, app
from diffalign.exceptions import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from diffalign.annotation import AnnotationServer, Plan, Summary
    from diffalign.annotation.summary import Person


@app.command()
def annotate(
    folder: Annotated[Path, typer.Argument(help="What generate wrote, or a folder with records of pairs or groups.")],
    rater: Annotated[
        str | None, typer.Option("--rater", help="Who votes; the page asks if left out. Several may vote at once.")
    ] = None,
    between: Annotated[
        str | None,
        typer.Option(
            "--between",
            help="X,Y: only pictures of source X with those of source Y that have the same seed. '': all again.",
        ),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=0, help="At most so many comparisons of each prompt; 0: all again.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Chooses comparisons, their order and the sides. Default: 0.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of this machine alone; 0: a free one.")] = 0,
    browser: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open a browser; by default where there is a screen.")
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only print the votes that are there, and how far people agree.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let people choose the better of two pictures on a local page; the votes go to FOLDER/votes.jsonl.

    The folder remembers --between, --pairs and --seed: later calls show the same comparisons without them.
    """
    from diffalign.annotation import read_plan, serve

    if summary:
        _print_summary(_checked(folder), as_json=as_json)
        return
    if as_json:
        raise ConfigError("--json: is for --summary; votes are JSON already, in votes.jsonl")
    plan = _plan(read_plan(folder), between, pairs, seed)

    def announce(server: AnnotationServer) -> None:
        address = server.address_for(rater)
        prompts = len({each.prompt for each in server.ballot.comparisons.values()})
        print(f"{_count(len(server.ballot.comparisons), 'comparison')} of {_count(prompts, 'prompt')}", file=sys.stderr)
        if "SSH_CONNECTION" in os.environ:
            port = server.url.rstrip("/").rpartition(":")[2]
            print(f"from your own machine: ssh -L {port}:127.0.0.1:{port} and this machine's name", file=sys.stderr)
        print("every vote is saved at once; Ctrl-C ends", file=sys.stderr)
        print(address, flush=True)
        if browser if browser is not None else _has_screen():
            webbrowser.open(address)

    serve(folder, plan, port=port, announce=announce)
    _say_what_next(folder, plan)


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give the one that diffalign annotate was given")
    return folder


def _plan(before: Plan, between: str | None, pairs: int | None, seed: int | None) -> Plan:
    from diffalign.annotation import Plan

    return Plan(
        before.between if between is None else between or None,
        before.pairs if pairs is None else pairs or None,
        before.seed if seed is None else seed,
    )


def _has_screen() -> bool:
    """Without one, the browser that is found may be one for the terminal, which would take it over."""
    return "SSH_CONNECTION" not in os.environ and (
        sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    )


def _count(number: int, noun: str, many: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def _say_what_next(folder: Path, plan: Plan) -> None:
    from diffalign.annotation import read_comparisons, read_votes
    from diffalign.annotation.comparisons import KEY

    listed = {each.id for each in read_comparisons(folder, plan)}
    there = [vote for vote in read_votes(folder) if vote.comparison in listed]
    people, judged = len({vote.rater for vote in there}), len({vote.comparison for vote in there})
    name = shlex.quote(str(folder))
    print(
        f"\n{_count(len(there), 'vote')} by {_count(people, 'person', 'people')} on {judged} of "
        f"{_count(len(listed), 'comparison')}, in {folder / 'votes.jsonl'}",
        file=sys.stderr,
    )
    if judged < len(listed) or not people:
        print(f"to go on:        diffalign annotate {name}", file=sys.stderr)
    if there:
        print(f"agreement:       diffalign annotate {name} --summary", file=sys.stderr)
    if there and (folder / KEY).is_file():
        print(f"win rates:       diffalign eval RUN --votes {name}", file=sys.stderr)
    elif there:
        votes = shlex.quote(str(folder / "votes.jsonl"))
        print(f"training pairs:  diffalign pair --input {name} --votes {votes} --out pairs.jsonl", file=sys.stderr)


def _print_summary(folder: Path, *, as_json: bool) -> None:
    from diffalign.annotation import read_comparisons, read_votes, summarise
    from diffalign.cli.console import results_console

    votes, listed = read_votes(folder), {each.id for each in read_comparisons(folder)}
    there = [vote for vote in votes if vote.comparison in listed]
    summary = summarise(there)
    if len(there) < len(votes):
        gone = _count(len(votes) - len(there), "vote")
        print(f"{gone} left out: on comparisons that the folder has not, or does not show now", file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(summary), indent=2))
        return
    if not summary.raters:
        print(f"no votes in {folder} yet; diffalign annotate {shlex.quote(str(folder))}")
        return
    console = results_console(highlight=False)
    console.print(_table(summary))
    for line in _agreement(summary):
        console.print(line, markup=False, soft_wrap=True)


def _table(summary: Summary) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"votes on {_count(summary.comparisons, 'comparison')}")
    table.add_column("who")
    for column in ("votes", "a", "b", "tie", "bad", "skip", "left chosen", "median seconds"):
        table.add_column(column, justify="right")
    together = (summary.all,) if len(summary.raters) > 1 else ()
    for person in (*summary.raters, *together):
        table.add_row(*_cells(person))
    return table


def _cells(person: Person) -> tuple[str, ...]:
    from rich.markup import escape

    left = person.left
    leaning = "-" if left.value is None else f"{left.value:.0%} [{left.low:.0%}, {left.high:.0%}]"
    counts = [str(person.choices[choice]) for choice in ("a", "b", "tie", "bad", "skip")]
    return (escape(person.rater) or "all", str(person.votes), *counts, escape(leaning), str(person.seconds))


def _agreement(summary: Summary) -> list[str]:
    """In words; skipped comparisons take no part."""
    found = summary.agreement
    if not found.pairs:
        return ["agreement: of one person alone there is none"]
    lines = []
    for two in found.pairs:
        names = " and ".join(two.raters)
        if two.agreement is None:
            lines.append(f"{names}: no comparison in common")
        else:
            kappa = "undefined (one answer throughout)" if two.kappa is None else f"{two.kappa:.2f}"
            lines.append(f"{names}: the same answer on {two.agreement:.0%} of {two.common}, Cohen's kappa {kappa}")
    if len(found.pairs) > 1:
        alpha = "undefined" if found.alpha is None else f"{found.alpha:.2f}"
        lines.append(
            f"all: Krippendorff's alpha {alpha} on {_count(found.comparisons, 'comparison')} with two votes or more"
        )
    return [
        *lines,
        "left chosen: of the votes for one picture, with its 95 % interval; about half where nobody leans to a side",
    ]
