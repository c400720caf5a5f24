"""Rounds that people judge: the pictures go into a folder of the run, and their votes come back as rewards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.annotation import pending, preferences
from diffalign.exceptions import DataError, RunPaused
from diffalign.pipelines import save_picture, to_picture
from diffalign.training.rounds import Chunk

_LISTING = "metadata.jsonl"


def round_folder(run: Path, number: int) -> Path:
    """Where the pictures of a round and the votes on them are."""
    return run / "rounds" / f"round-{number:04d}"


def show_round(
    folder: Path,
    names: Sequence[str],
    prompts: Sequence[str],
    pictures: Float[Tensor, "prompts members 3 height width"],
) -> None:
    """Write the pictures of a round for `diffalign annotate`: a record of kind groups for each prompt.

    The listing comes last: a folder without it is written again. One with it is left as it is, for it may have votes.
    """
    listing = folder / _LISTING
    if listing.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for place, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
        items = [f"{place:04d}-{member}.png" for member in range(len(pictures[place]))]
        for item, pixels in zip(items, pictures[place], strict=True):
            save_picture(to_picture(pixels), folder / item)
        lines.append(json.dumps({"id": name, "prompt": prompt, "items": items}, ensure_ascii=False) + "\n")
    draft = listing.with_name(f".{listing.name}.partial")
    draft.write_text("".join(lines), encoding="utf-8", newline="\n")
    os.replace(draft, listing)


def check_votes(run: Path, number: int) -> None:
    """Whether every comparison of a round that is shown has an answer.

    Raises:
        RunPaused: some have none yet.
        DataError: the folder is damaged.
    """
    folder = round_folder(run, number)
    left = pending(folder) if (folder / _LISTING).exists() else 0
    if left:
        raise RunPaused(
            f"round {number} waits for people: {left} comparison{'s' if left > 1 else ''} left. Judge them with\n"
            f"  diffalign annotate {folder}\nand go on with\n  diffalign train --resume {run}"
        )


def voted_rewards(run: Path, number: int, names: Sequence[str], members: int) -> Float[Tensor, "prompts members"]:
    """Of each picture, the share of its comparisons that people decided for it, a tie counting half; NaN without any.

    Raises:
        RunPaused: comparisons are left that nobody has answered.
        DataError: the folder is damaged.
    """
    check_votes(run, number)
    return _shares(preferences(round_folder(run, number)), names, members)


def voted_chunks(run: Path, number: int, drawn: Mapping[int, Chunk]) -> dict[int, Chunk]:
    """Chunks with what people said of their pictures, which are shown to them if they have not been.

    Raises:
        RunPaused: they have not said all yet.
    """
    chunks = [drawn[each] for each in sorted(drawn)]
    names = [name for chunk in chunks for name in chunk.names]
    pictures = torch.cat([chunk.pictures for chunk in chunks if chunk.pictures is not None])
    show_round(round_folder(run, number), names, [prompt for chunk in chunks for prompt in chunk.prompts], pictures)
    rewards = voted_rewards(run, number, names, pictures.shape[1]).split(len(chunks[0].names))
    return {
        chunk.number: replace(chunk, rewards=part[None], pictures=None)
        for chunk, part in zip(chunks, rewards, strict=True)
    }


def _shares(
    judged: Sequence[tuple[Mapping[str, object], str, str, float | None]], names: Sequence[str], members: int
) -> Tensor:
    places = {name: place for place, name in enumerate(names)}
    won, seen = torch.zeros(len(names), members), torch.zeros(len(names), members)
    for record, a, b, share in judged:
        if share is None:
            continue
        place = places.get(str(record["id"]))
        if place is None:
            raise DataError(f"record {record['id']} is not one of this round's: its folder is another run's")
        for item, of in ((a, share), (b, 1 - share)):
            member = int(Path(item).stem.rpartition("-")[2])
            won[place, member] += of
            seen[place, member] += 1
    return (won / seen).masked_fill(seen == 0, torch.nan)
