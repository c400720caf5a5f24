"""`diffalign generate`: from what stands on the command line to prompts, models and pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from diffalign.cli.chosen_models import chosen_models
from diffalign.cli.options import as_options
from diffalign.cli.processes import process_of_all
from diffalign.cli.progress import drawing_bar
from diffalign.config.fields import is_text
from diffalign.data import read_prompts
from diffalign.exceptions import ConfigError
from diffalign.pipelines import BestOf, ImageGenerator, draw_models
from diffalign.rewards import Reward, RewardEnsemble, reward_of_text
from diffalign.zoo import is_zoo, locate


def draw(
    prompts: Sequence[str],
    out: Path,
    model: Mapping[str, Any],
    wishes: Mapping[str, Any],
    *,
    seed: int,
    count: int,
    best_of: int = 1,
    rewards: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Draw pictures for prompts into `out`, with a bar on stderr and then how many were drawn.

    Args:
        prompts: each a .txt, a .jsonl, a file of the zoo, or one prompt; all of them are drawn, in order.
        model: the arguments of `chosen_models`.
        wishes: the settings of `ImageGenerator.create`; None is the run's or the family's own.
        seed, count: as `draw_models` takes them.
        overwrite: as `draw_models` takes it.
        best_of: pictures that are drawn for each one that is kept, the best by `rewards`.

    Raises:
        ConfigError, DataError: the model or the prompts cannot be used.
    """
    texts = [text for source in prompts for text in _prompts(source)]
    rank, world = process_of_all()
    models = chosen_models(wishes, **model)
    if (best_of > 1) != bool(rewards):
        raise ConfigError("give --best-of and --reward together: the reward chooses the best of so many pictures")
    if rewards:
        members = [reward_of_text(text) for text in rewards]
        judge = members[0] if len(members) == 1 else RewardEnsemble(members)
        models = [replace(each, load=partial(_best_of, each.load, judge, best_of)) for each in models]
    with as_options({*wishes, "out", "overwrite"}), drawing_bar(len(models) * len(texts) * count) as progress:
        done = draw_models(
            models,
            texts,
            out,
            seed=seed,
            count=count,
            rank=rank,
            world=world,
            overwrite=overwrite,
            progress=progress,
        )
    share = "" if world == 1 else f" (process {rank} of {world}{'' if done.complete else '; others are not done'})"
    print(f"pictures: {done.drawn} drawn, {done.there} there already{share}", file=sys.stderr)


def _prompts(source: str) -> list[str]:
    if is_zoo(source):
        try:
            return read_prompts(locate(source))
        except ConfigError as error:
            raise ConfigError(f"--prompts: {error}") from None
    if source.endswith((".txt", ".jsonl")):
        return read_prompts(Path(source))
    if not source.strip():
        raise ConfigError("--prompts: empty; give a prompt, a .txt, a .jsonl or zoo://NAME/held_out")
    if not is_text(source):
        raise ConfigError(f"--prompts: not UTF-8 text, got {source!r:.100}")
    return [source]


def _best_of(load: Callable[[], ImageGenerator], reward: Reward, n: int) -> ImageGenerator:
    return BestOf.of(load(), reward, n)
