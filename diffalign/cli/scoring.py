"""`diffalign score`: from what stands on the command line to rewards, and what they say to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from diffalign.cli.console import results_console
from diffalign.cli.options import as_options, checked_input
from diffalign.cli.processes import process_of_all
from diffalign.cli.progress import drawing_bar
from diffalign.evaluation import score_records
from diffalign.exceptions import ConfigError
from diffalign.reports import score_table
from diffalign.rewards import Reward, reward_of_text


def score_pictures(
    source: Path, out: Path, rewards: Sequence[str], *, components: bool, batch: int, as_json: bool
) -> None:
    """Score, with a bar on stderr; the table and the file's path go to stdout, of several processes by the last one.

    Raises:
        ConfigError, DataError: rewards, source or file cannot be used.
    """
    rank, world = process_of_all()
    checked_input(source)
    with as_options(("out",)), drawing_bar(0, "scored") as progress:
        done = score_records(
            source,
            out,
            _by_column(rewards),
            components=components,
            batch=batch,
            rank=rank,
            world=world,
            progress=progress,
        )
    print(f"pictures: {done.scored} scored, {done.known} known already", file=sys.stderr)
    if done.summary is None:
        print(f"process {rank} of {world}: others are not done; the last one writes {done.file}", file=sys.stderr)
    elif as_json:
        print(json.dumps({"file": str(done.file), "rewards": done.summary}, indent=2, ensure_ascii=False))
    else:
        results_console().print(score_table(done.summary))
        print(done.file)


def _by_column(texts: Sequence[str]) -> dict[str, Reward]:
    """Rewards by name; where one name stands twice with different options, by all that was said."""
    if len(set(texts)) < len(texts):
        raise ConfigError(f"--reward: the same stands twice in {', '.join(texts)}")
    made = {text: reward_of_text(text) for text in texts}
    names = [reward.spec.name for reward in made.values()]
    return {reward.spec.name if names.count(reward.spec.name) == 1 else text: reward for text, reward in made.items()}
