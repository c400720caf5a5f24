"""From judged pictures to the records that training reads: `diffalign pair`."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from diffalign.data.aggregate import weighted_sum
from diffalign.data.judged import Judged, VotedPair, read_judged, read_voted_pairs
from diffalign.data.preferences import (
    Namer,
    Row,
    cuts,
    expert_rows,
    group_row,
    labelled_rows,
    pairs_by_order,
    pairs_by_value,
    pairs_by_votes,
    shares_won,
)
from diffalign.data.reward_votes import pareto_preference, share_of_rivals_beaten
from diffalign.data.row_files import LISTING, path_from, rows_file, write_rows
from diffalign.exceptions import ConfigError, DataError

RecordKind = Literal["pairs", "groups", "labelled", "experts"]
Aggregate = Literal["sum", "votes", "pareto"]


@dataclass(frozen=True)
class Pairing:
    """How pictures become records.

    Attributes:
        kind: `pairs`, `groups`, `labelled`, or `experts`: the best of all, as labelled records that are all good.
        rewards: column -> weight.
        aggregate: how several rewards become one: `sum` (`weighted_sum`), `votes`
            (`share_of_rivals_beaten`), `pareto` (`pareto_preference`,
            for pairs alone).
        votes: a file of people's votes, in the place of rewards.
        every: of kind pairs, all pairs of a prompt and not only the best with the worst.
        margin: of kind pairs, the least gap in reward, or in the share of votes.
        smooth: of kind pairs, the rewards that count as 0 and 1 for a soft preference; None: no column preference.
        good, bad, share: of kind labelled, as in `cuts`.
        top: of kind experts, how many; None: 500.
        seed: of what is drawn among equals.
    """

    kind: RecordKind
    rewards: Mapping[str, float]
    aggregate: Aggregate = "sum"
    votes: Path | None = None
    every: bool = False
    margin: float = 0.0
    smooth: tuple[float, float] | None = None
    good: float | None = None
    bad: float | None = None
    share: float | None = None
    top: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Whether the settings go together.

        Raises:
            ConfigError: they do not; names the option.
        """
        pairs, people = self.kind == "pairs", self.votes is not None
        of_pairs = {"--all-pairs": self.every, "--margin": self.margin != 0, "--smooth": self.smooth is not None}
        wrong = [option for option, given in of_pairs.items() if given and not pairs]
        if wrong:
            raise ConfigError(f"{wrong[0]}: is of --kind pairs, and this is {self.kind}; leave it out")
        if self.kind != "labelled" and (self.good, self.bad, self.share) != (None, None, None):
            raise ConfigError(
                f"--good, --bad and --share are of --kind labelled, and this is {self.kind}; leave them out"
            )
        if people == bool(self.rewards):
            raise ConfigError("give either --reward or --votes: what says which picture is better")
        if not self.margin >= 0:
            raise ConfigError(f"--margin: must not be negative, got {self.margin}")
        if self.smooth is not None and not -math.inf < self.smooth[0] < self.smooth[1] < math.inf:
            raise ConfigError(f"--smooth: must be LOW,HIGH, two rewards, LOW below HIGH, got {self.smooth}")
        if people and (self.smooth is not None or self.every or self.aggregate != "sum"):
            raise ConfigError(
                "--votes: the shares of votes are the preferences; leave out --smooth, --all-pairs and --aggregate"
            )
        if self.aggregate != "sum" and any(weight != 1 for weight in self.rewards.values()):
            raise ConfigError(f"--reward: --aggregate {self.aggregate} counts rewards as equals; leave out the weights")
        if self.aggregate == "pareto" and not (pairs and self.margin == 0 and self.smooth is None):
            raise ConfigError(
                "--aggregate pareto gives pairs without a gap: leave out --margin and --smooth, with --kind pairs"
            )


@dataclass(frozen=True)
class Paired:
    """What was written.

    Attributes:
        file: where.
        kept: records.
        dropped: why others were left out, and how many.
        notes: what else is to be known of the kept ones, and of how many.
    """

    file: Path
    kept: int
    dropped: dict[str, int]
    notes: dict[str, int]


def pair_records(source: Path, out: Path, pairing: Pairing, *, overwrite: bool = False) -> Paired:
    """Make records of judged pictures, and write them where training finds the pictures.

        pair_records(Path("drawn/scores.jsonl"), Path("pairs.jsonl"), Pairing("pairs", {"scene": 1.0}))

    Args:
        source: what `diffalign.evaluation.score_records` wrote, or any rows of pictures, prompts and columns of numbers.
        out: a .jsonl, a .parquet, or a folder, which gets a metadata.jsonl.
        pairing: what is made of them.
        overwrite: replace a file that is there.

    Raises:
        ConfigError: settings that do not go together, or a file that is there already.
        DataError: a record is wrong, or none came out of it; nothing is written then.
    """
    pairing.check()
    file = rows_file(out)
    listing = source / LISTING if source.is_dir() else source
    if file.resolve() == listing.resolve():
        raise ConfigError(f"--out: {out} is what is read; give another file")
    if file.exists() and not overwrite:
        raise ConfigError(f"--out: {file} is there already; give another file, or --overwrite")
    if pairing.votes is not None and not pairing.votes.is_file():
        raise DataError(f"--votes: {pairing.votes}: no such file; {_makes_votes(listing)} makes it")
    pictures, lost = read_judged(source, list(pairing.rewards))
    dropped: Counter[str] = Counter({"pictures that are not there": lost})
    notes: Counter[str] = Counter()
    compared = None
    if pairing.votes is not None:
        compared, gone = read_voted_pairs(pairing.votes, pictures, listing.parent)
        if not compared:
            raise DataError(f"--votes: {pairing.votes}: no votes in it yet; {_makes_votes(listing)} takes them")
        dropped["votes on pictures that the input has not"] = gone

    def name(picture: Judged) -> str:
        return path_from(file, picture.file)

    rows = list(_rows(pairing, pictures, compared, name, dropped, notes))
    left_out = {reason: count for reason, count in dropped.items() if count}
    if not rows:
        why = ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "there are no pictures"
        raise DataError(f"{source}: no {pairing.kind} come of it ({why}); nothing was written")
    write_rows(file, rows)
    return Paired(file, len(rows), left_out, {note: count for note, count in notes.items() if count})


def _makes_votes(listing: Path) -> str:
    return f"diffalign annotate {shlex.quote(str(listing.parent))}"


def _rows(
    pairing: Pairing,
    pictures: list[Judged],
    compared: list[VotedPair] | None,
    name: Namer,
    dropped: Counter[str],
    notes: Counter[str],
) -> Iterator[Row]:
    if compared is not None and pairing.kind == "pairs":
        yield from pairs_by_votes(compared, name, dropped, margin=pairing.margin)
        return
    if compared is not None:
        won = shares_won(compared)
        values = [won.get(picture.id, math.nan) for picture in pictures]
    else:
        values = _values(pairing, pictures)
    unscored = "never compared" if compared is not None else "unscored pictures"
    if pairing.kind != "groups":  # which keep them, as null
        dropped[unscored] += sum(map(math.isnan, values))
    judged = list(zip(pictures, values, strict=True))
    scored = [(picture, value) for picture, value in judged if not math.isnan(value)]
    if pairing.kind == "experts":
        yield from expert_rows(scored, pairing.top, name, dropped, pairing.seed)
    elif pairing.kind == "labelled":
        limits: dict[str, Any] = {"good": pairing.good, "bad": pairing.bad, "share": pairing.share}
        if compared is not None and limits == dict.fromkeys(limits):
            is_good, is_bad = (lambda value: value > 0.5), (lambda value: value < 0.5)
        else:
            is_good, is_bad = cuts([value for _, value in scored], **limits)
        yield from labelled_rows(scored, is_good, is_bad, name, dropped, notes)
    else:
        for number, group in enumerate(_by_prompt(judged)):
            there = [(picture, value) for picture, value in group if not math.isnan(value)]
            if pairing.kind == "groups":
                yield from group_row(number, group, name, dropped, notes)
            elif pairing.aggregate == "pareto":
                yield from pairs_by_order([picture for picture, _ in there], _dominates, name, dropped)
            else:
                options: dict[str, Any] = {"every": pairing.every, "margin": pairing.margin, "smooth": pairing.smooth}
                yield from pairs_by_value(there, name, dropped, seed=pairing.seed, **options)


def _values(pairing: Pairing, pictures: list[Judged]) -> list[float]:
    """One number a picture, NaN where it is unscored."""
    if pairing.aggregate != "votes":
        return weighted_sum([picture.scores for picture in pictures], list(pairing.rewards.values()))
    found: dict[str, float] = {}
    for group in _by_prompt([(picture, 0.0) for picture in pictures]):
        scores = torch.tensor([picture.scores for picture, _ in group], dtype=torch.float64)
        scores[scores.isnan().any(1)] = torch.nan  # a picture that one of the rewards does not score takes no part
        shares = share_of_rivals_beaten(scores.T[:, None])[0].tolist()
        found |= {picture.id: share for (picture, _), share in zip(group, shares, strict=True)}
    return [found[picture.id] for picture in pictures]


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return float(pareto_preference(*torch.tensor([first, second], dtype=torch.float64))) == 1.0


def _by_prompt(judged: list[tuple[Judged, float]]) -> list[list[tuple[Judged, float]]]:
    groups: dict[str, list[tuple[Judged, float]]] = {}
    for picture, value in judged:
        groups.setdefault(picture.prompt, []).append((picture, value))
    return list(groups.values())
