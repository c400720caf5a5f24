"""The commands."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffalign.cli.single_options import CommandLine
from diffalign.exceptions import ConfigError, DivergenceError, HealthStop, RunInterrupted, RunPaused

if TYPE_CHECKING:
    from diffalign.training import RewardRun, Run

log = logging.getLogger(__name__)
app = CommandLine(
    help="Align diffusion and flow models with preferences and rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> bool:
    if asked:
        from diffalign import __version__

        print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", help="A config file, or a name that `diffalign list configs` shows.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a setting, for example --set optimizer.learning_rate=1e-4. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _need_config(config: str | None) -> str:
    if config is None:
        raise ConfigError("--config is missing; `diffalign list configs` shows the ones that ship with diffalign")
    return config


@app.command()
def train(
    config: ConfigOption = None,
    overrides: SetOption = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Go on with this run folder, to the bit. Of its config --set may change only how the groups of a step "
            "are spread: training.processes, training.accumulation, training.groups.",
        ),
    ] = None,
) -> None:
    """Train, compare base with aligned on held-out prompts, write report.html; the run folder is printed last.

    A config with `task: reward` trains a reward: how it does on held-out comparisons is printed.
    """
    from diffalign.config import RunConfig, load_config

    if resume is not None and config is not None:
        raise ConfigError("--resume goes on with the run's own config; leave out --config, or start a new run")
    if resume is None:
        settings = load_config(_need_config(config), overrides or ())
    quiet_libraries()
    import diffalign.training as training
    from diffalign.evaluation import check_quality

    if resume is None and isinstance(settings, RunConfig) and settings.evaluation.prompts is not None:
        check_quality(settings.evaluation)
    folders = [] if resume is None else [resume]
    try:
        if resume is not None:
            run = training.resume(resume, overrides=overrides or ())
        else:
            run = training.train(settings, announce=folders.append)
    except (DivergenceError, HealthStop, RunInterrupted, RunPaused):
        if folders and is_first_process():
            _report_stopped(folders[0])
        raise
    if isinstance(run, training.RewardRun):
        print_held_out(run)
    elif is_first_process():
        if not run.trained and (run.folder / "evaluation" / "summary.json").is_file():
            log.info("compared already; diffalign eval %s compares again", run.folder)
        elif run.config.evaluation.prompts is not None:
            print_evaluation(run, as_json=False)
        rebuild_report(run.folder)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Rebuild report.html from what is in a run folder, of one that aligns a model."""
    rebuild_report(run)


@app.command()
def check(
    config: ConfigOption = None,
    overrides: SetOption = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Estimate the memory that it takes; the model's settings are read for it.")
    ] = False,
    fit: Annotated[
        str | None, typer.Option("--fit", help="Whether it fits in so much, such as 24GB, and what to set if not.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a config and print its batch arithmetic, without loading anything; with --fit, its memory too."""
    from diffalign.cli.memory import estimate_memory, parse_size, print_memory
    from diffalign.cli.show import describe_config, describe_reward_config
    from diffalign.config import RewardRunConfig, load_alignment, load_config

    limit = None if fit is None else parse_size(fit)
    settings = load_config(_need_config(config), overrides or ())
    if isinstance(settings, RewardRunConfig):
        if memory or limit is not None:
            raise ConfigError(
                f"--{'memory' if memory else 'fit'}: is for runs that align a model, not for task: reward"
            )
        describe_reward_config(settings, as_json=as_json)
        return
    if limit is None and not memory:
        describe_config(settings, as_json=as_json)
        return
    quiet_libraries()
    facts = estimate_memory(
        settings, limit, lambda more: load_alignment(_need_config(config), [*(overrides or ()), *more])
    )
    describe_config(settings, as_json=as_json, memory=facts)
    if not as_json:
        print_memory(facts)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine and environment can do, and what to mend. Exit code 1 when something is wrong."""
    quiet_libraries()
    from diffalign.cli.doctor import examine

    if not examine(as_json=as_json):
        raise typer.Exit(1)


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="objectives, rewards, families, samplers, configs or zoo.")
    ] = "objectives",
    name: Annotated[str | None, typer.Argument(help="One of them: all that the list says of it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List what there is: objectives, rewards, families, samplers, configs, zoo; or all about one of them."""
    from diffalign.cli.show import show_list

    show_list(what, name, as_json=as_json)


def print_held_out(run: RewardRun) -> None:
    """What a trained reward is worth on prompts that it has not seen; the run folder is printed last."""
    from diffalign.cli.console import results_console
    from diffalign.reports import held_out_table

    if run.held_out:
        results_console().print(held_out_table(run.held_out))
    print(run.folder)


def print_evaluation(run: Run, *, as_json: bool) -> None:
    """Compare base and aligned, and print what came of it."""
    from diffalign.cli.console import results_console
    from diffalign.cli.progress import drawing_bar
    from diffalign.evaluation import evaluate as compare
    from diffalign.reports import evaluation_table
    from diffalign.training import refresh_card
    from diffalign.training.build import held_out_prompts

    prompts = held_out_prompts(run.config)
    with drawing_bar(2 * len(prompts) * run.config.evaluation.members) as progress:
        summary = compare(
            run.generator,
            prompts,
            run.config.evaluation,
            run.folder,
            view=run.view,
            trained_on=run.config.trained_on,
            progress=progress,
        )
    refresh_card(run.folder, run.config, run.steps)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        results_console().print(evaluation_table(summary))


def rebuild_report(run: Path, *, quiet: bool = False) -> None:
    """Write report.html; the run folder is printed last."""
    from diffalign.reports import write_report

    page = write_report(run)
    if not quiet:
        print(f"report: {page}")
        print(run)


def _report_stopped(run: Path) -> None:
    """The report of a run that an error is about to end; whatever is wrong with the report, that error is what counts."""
    from diffalign.reports import trains_reward, write_report

    try:
        if trains_reward(run):
            return
        log.info("report: %s", write_report(run))
    except Exception as error:
        log.warning("no report could be made of %s: %s", run, error)


def is_first_process() -> bool:
    """Whether this process speaks for all of them."""
    import os

    return os.environ.get("RANK", "0") == "0"


def quiet_libraries(libraries: Sequence[str] = ("diffusers", "transformers")) -> None:
    """Model libraries talk a lot while they load; their errors still come through.

    Args:
        libraries: those that will be used and have progress bars of their own; to import them takes seconds.
    """
    import contextlib
    import os
    import warnings
    from importlib import import_module

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"(?!diffalign).*")
    for library in libraries:
        with contextlib.suppress(Exception):  # a broken install is reported by whoever needs it, and by doctor
            import_module(f"{library}.utils.logging").disable_progress_bar()
