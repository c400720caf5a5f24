"""`diffalign score`: from what stands on the command line to rewards, and what they say to the terminal."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from diffalign.cli.app import quiet_libraries
from diffalign.cli.console import results_console
from diffalign.cli.options import as_options, checked_input
from diffalign.cli.processes import process_of_all
from diffalign.cli.progress import drawing_bar
from diffalign.cli.score_file import default_file
from diffalign.config.sample_rewards import ModelRewardParams
from diffalign.data.line_rows import save_lines
from diffalign.data.picture_rows import is_pattern, left_out
from diffalign.evaluation import Scored, score_in_processes, score_records, score_sets
from diffalign.evaluation.known_scores import scored_rows
from diffalign.exceptions import ConfigError
from diffalign.reports import left_out_lines, score_histogram, score_table, set_table, unscored_lines
from diffalign.rewards import REWARDS, SET_REWARDS, options_of_text, rewards_by_name
from diffalign.rewards.loading import guarded_reward_of_text
from diffalign.rewards.media import MEDIA


def score_pictures(
    source: Path,
    out: Path | None,
    rewards: Sequence[str],
    *,
    components: bool,
    batch: int,
    as_json: bool,
    prompt: str = "",
    by: str | None = None,
    processes: int = 1,
    keep: bool = True,
    overwrite: bool = False,
) -> bool:
    """Score, with a bar on stderr; the table and the file's path go to stdout, of several processes by the last one.

    Without `out` the file is `default_file`'s; none is written if not `keep`. What a file holds beside is only lost if
    `overwrite`.

    Returns:
        Whether anything has a score, as far as this process knows.

    Raises:
        ConfigError, DataError: rewards, source or file cannot be used.
    """
    rank, world = process_of_all()
    of_sets = [text for text in rewards if options_of_text(text)[0] in SET_REWARDS]
    single = [text for text in rewards if text not in of_sets]
    _check(out, single, of_sets, by, processes, world, keep)
    _quiet_models(rewards)
    sets = rewards_by_name(of_sets)
    told: dict[str, Any] = {"file": None, "rewards": {}}
    chosen = out if out is not None or not keep or not single else default_file(source)
    what = _several(rewards)
    with input_of(source) as found, _file_of(chosen) as file:
        if rank == 0 and (others := left_out(found)):
            print(f"left out: {others}", file=sys.stderr)
        settings = {"components": components, "prompt": prompt, "batch": batch, "lose_nothing": not overwrite}
        if single:
            try:
                done = _score(found, file, single, processes, (rank, world), what, settings)
            except KeyboardInterrupt:
                if chosen is not None:
                    print("stopped; what was scored is kept: the same call goes on", file=sys.stderr)
                raise
            print(f"{what}: {done.scored} looked at, {done.known} known already", file=sys.stderr)
            if done.summary is None:
                print(f"process {rank} of {world}: others are not done; the last one writes {file}", file=sys.stderr)
                return True
            told = {"file": None if chosen is None else str(done.file), "rewards": done.summary}
        if sets:
            with drawing_bar(0, "looked at", what) as progress:
                told["sets"] = score_sets(found, sets, by=by, prompt=prompt, progress=progress)
        if as_json:
            print(json.dumps(told, indent=2, ensure_ascii=False))
            return _any_scored(told)
        console = results_console()
        if single:
            console.print(score_table(told["rewards"]))
            for line in unscored_lines(told["rewards"], **({} if keep else {"most": None})):
                console.print(Text(line, style="yellow"))
            values: dict[str, list[float]] = {column: [] for column in told["rewards"]}
            for row in scored_rows(done.file):
                for column, seen in values.items():
                    if row.get(column) is not None:
                        seen.append(float(row[column]))
            for column, facts in told["rewards"].items():
                if not values[column]:
                    continue  # the table says why
                console.print(score_histogram(column, facts["unit"], values[column]))
        if sets:
            console.print(set_table(told["sets"]))
            for line in left_out_lines(told["sets"]):
                console.print(Text(line, style="yellow"))
        if told["file"] is not None:
            print(told["file"])
    return _any_scored(told)


def _any_scored(told: dict[str, Any]) -> bool:
    values = [facts["value"] for facts in told.get("sets", {}).values()]
    return any(facts["scored"] for facts in told["rewards"].values()) or any(value is not None for value in values)


def _several(rewards: Sequence[str]) -> str:
    """What the rewards look at, in a word."""
    names = [options_of_text(text)[0] for text in rewards]
    media = {REWARDS[name].spec.media if name in REWARDS else "" for name in names if name not in SET_REWARDS}
    media |= {"audio" if name == "fad" else "" for name in names if name in SET_REWARDS}  # of the others any encoder
    only = media.pop() if len(media) == 1 and "http" not in names else ""
    return MEDIA[only].several if only in MEDIA else "samples"


@contextmanager
def input_of(source: Path) -> Iterator[Path]:
    """What --input names: a file or folder that is there, a pattern, or, for -, a file of what stands on stdin.

    Raises:
        ConfigError: nothing of it is there.
        DataError: stdin holds neither records nor paths.
    """
    if str(source) != "-":
        yield source if is_pattern(source) else checked_input(source)
        return
    with tempfile.TemporaryDirectory(prefix="diffalign-") as folder:
        file = Path(folder) / "input.jsonl"
        save_lines(sys.stdin, Path.cwd(), file)
        yield file


@contextmanager
def _file_of(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="diffalign-") as folder:
        yield Path(folder) / "scores.jsonl"


def _check(
    out: Path | None, single: Sequence[str], sets: Sequence[str], by: str | None, processes: int, world: int, keep: bool
) -> None:
    if not keep and out is not None:
        raise ConfigError("--no-file: with --out there is one; leave out one of the two")
    if out is None and world > 1:
        raise ConfigError("--out: missing; several processes need a file that they write together")
    if processes > 1 and "RANK" in os.environ:
        raise ConfigError("--processes: RANK is set already; leave out one of the two")
    if out is not None and not single:
        raise ConfigError(
            f"--out: {', '.join(sets)} say one number of all together, which is printed; leave --out out, or add a reward "
            "of single samples"
        )
    if by is not None and not sets:
        raise ConfigError(f"--by: is for rewards of sets ({', '.join(SET_REWARDS)}), and none is asked for")


def _quiet_models(rewards: Sequence[str]) -> None:
    """Models and encoders may be transformers'; who needs neither does not wait for it."""
    named = [options_of_text(text)[0] for text in rewards]
    models = any(name not in REWARDS or issubclass(REWARDS[name].params, ModelRewardParams) for name in named)
    quiet_libraries(["transformers"] if models else [])


def _score(
    source: Path,
    file: Path,
    rewards: Sequence[str],
    processes: int,
    place: tuple[int, int],
    what: str,
    settings: dict[str, Any],
) -> Scored:
    rank, world = place
    with as_options(("out", "processes")), drawing_bar(0, "looked at", what) as progress:
        if processes > 1:
            return score_in_processes(
                source, file, rewards, processes, begin=partial(_quiet_models, rewards), progress=progress, **settings
            )
        columns = rewards_by_name(rewards, guarded_reward_of_text)
        return score_records(source, file, columns, rank=rank, world=world, progress=progress, **settings)
