"""`diffalign eval`: base against aligned, by rewards, and by people who do not know which is which."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from diffalign.cli.app import JsonOption, app, print_evaluation, quiet_libraries, rebuild_report
from diffalign.exceptions import ConfigError


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Override a setting of the section evaluation, as --set evaluation.seed=1."),
    ] = None,
    blind: Annotated[
        Path | None,
        typer.Option("--blind", help="Write base and aligned pictures to this folder, for diffalign annotate."),
    ] = None,
    votes: Annotated[
        Path | None, typer.Option("--votes", help="Turn the votes in a folder that --blind made into win rates.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare base and aligned again, by default on the run's own prompts and seeds, and rebuild the report.

    --blind takes the pictures of the run's last comparison; it compares first where there is none of what is trained now,
    or with --set. --votes adds what people said to the report.
    """
    from diffalign.config import load_alignment

    for override in overrides or ():
        if not override.startswith("evaluation."):
            raise ConfigError(
                f"--set {override}: eval changes how a finished run is judged; give a setting that starts with evaluation."
            )
    if blind is not None and votes is not None:
        raise ConfigError("give either --blind (before people vote) or --votes (after)")
    if blind is not None and as_json:
        raise ConfigError("--json: --blind prints the folder alone; leave one out")
    quiet_libraries()
    if blind is not None:
        from diffalign.evaluation.blind import check_new

        check_new(blind)
    if votes is not None:
        _print_people(run, votes, overrides or [], as_json=as_json)
        return
    if blind is None or overrides or not _is_compared(run):
        from diffalign.evaluation import check_quality
        from diffalign.training import load_run

        loaded = load_run(run)
        if overrides:
            loaded = replace(loaded, config=load_alignment((run / "config.yaml").resolve(), overrides))
        if loaded.config.evaluation.prompts is not None:
            check_quality(loaded.config.evaluation)
        print_evaluation(loaded, as_json=as_json)
        rebuild_report(run, quiet=as_json)
    if blind is not None:
        _export(run, blind)


def _is_compared(run: Path) -> bool:
    """Whether there are pictures to compare, drawn after the last training."""
    summary, result = run / "evaluation" / "summary.json", run / "result.json"
    return summary.is_file() and (not result.is_file() or summary.stat().st_mtime >= result.stat().st_mtime)


def _settings(run: Path, overrides: list[str]) -> Any:
    from diffalign.config import load_alignment

    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is not a run folder: it has no config.yaml; give the folder that train printed")
    return load_alignment((run / "config.yaml").resolve(), overrides)


def _export(run: Path, out: Path) -> None:
    from diffalign.evaluation import export_blind

    config = _settings(run, [])
    pairs = export_blind(run, out, run / config.model.result, seed=config.evaluation.seed)
    folder = shlex.quote(str(out))
    print(f"{pairs} pairs; key.json says which picture is whose: do not look before the votes are in", file=sys.stderr)
    print(f"then:  diffalign annotate {folder}", file=sys.stderr)
    print(f"then:  diffalign eval {shlex.quote(str(run))} --votes {folder}", file=sys.stderr)
    print(out)


def _print_people(run: Path, votes: Path, overrides: list[str], *, as_json: bool) -> None:
    from diffalign.cli.console import results_console
    from diffalign.evaluation import import_votes
    from diffalign.reports import people_table

    config = _settings(run, overrides)
    people = import_votes(run, votes, run / config.model.result, config.evaluation)
    if as_json:
        print(json.dumps(people, indent=2, ensure_ascii=False))
    else:
        results_console().print(people_table(people))
    rebuild_report(run, quiet=as_json)
