"""The score runner: every picture of a source by several rewards, to a file; gone on with wherever it was cut off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.data.part_files import PartFiles
from diffalign.data.picture_rows import PictureRow, read_pictures
from diffalign.data.records import decoded, picture_bytes
from diffalign.data.row_files import LISTING, check_for_jsonl, make_folder, rows_file, write_rows
from diffalign.evaluation.known_scores import KnownScores, Score, score_key
from diffalign.evaluation.score_rows import ScoreSummary, by_column, score_columns, scored_row, short
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import BatchReward, Reward, RewardOutput, Sample


class Scored(NamedTuple):
    """What a call of `score_records` did.

    Attributes:
        file: that was written.
        scored: pictures that this process scored by one reward at least.
        known: pictures of its share that needed no scoring.
        summary: per column what the reward is, `scored` and `unscored` pictures, `reasons`, and of the scored ones `mean`,
            `std` (population), `least`, `greatest`; None before the last of several processes has finished.
    """

    file: Path
    scored: int
    known: int
    summary: dict[str, Any] | None


def score_records(
    source: Path,
    out: Path,
    rewards: Mapping[str, Reward] | Sequence[Reward],
    *,
    components: bool = False,
    batch: int = 16,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Scored:
    """Score every picture of `source`, and write one row a picture, in the source's order.

        score_records(Path("drawn"), Path("drawn/scores.jsonl"), [load_reward("scene"), load_reward("jpeg")])

    A row has id, file_name (relative to `out`), prompt, the source's other columns, one column a reward (null where
    unscored; `NAME_reason` then says why), `picture` (a digest of its bytes) and `versions` (column -> the reward's
    version). Rewards that compare (psnr, ssim) do so with the picture that the source's column `reference` names, by a
    path relative to the source's file, or holds; rows then also have `reference_picture`, its digest.

    What `out`, or a call that was cut off, holds of the same reward version, picture bytes, prompt and reference is not
    scored again; what could not be scored is tried again. Several processes each score every `world`-th batch, none
    waits for another, and the last one to finish writes `out`.

    Args:
        source: what `read_pictures` reads.
        out: a .jsonl or .parquet, or a folder, which gets a metadata.jsonl. It may be `source` itself if that is a .jsonl
            or .parquet that an earlier call wrote, whose columns are kept; or a folder of pictures without records, which
            from then on are those that its metadata.jsonl lists.
        rewards: by column, or a list, whose columns are their names.
        components: also write what each reward is made of, as columns NAME.PART.
        batch: pictures at a time.
        rank, world: which of how many processes this is.
        progress: called after every batch with (pictures done, pictures of this process's share).

    Raises:
        ConfigError: no rewards, two of one name, one that does not judge single pictures, or `out` holds something else.
        DataError: the source cannot be read, or has a column that `out` cannot hold. A single picture that cannot be read
            is unscored.
    """
    columns = by_column(rewards)
    file = rows_file(out)
    if file.parent.resolve() == source.resolve() and not (source / LISTING).exists():
        _refuse_to_hide(source, file)
    # the parts of a listing are generate's: they say that not all is drawn
    parts = PartFiles(file.with_name(f"{LISTING}.scores") if file.name == LISTING else file, rank, world)
    known = KnownScores()
    if file.exists():
        known.add_rows(file, {column: reward.spec for column, reward in columns.items()}, failures=False)
    known.add_parts(parts, failures=False)
    total = 0
    for number, row in enumerate(read_pictures(source)):
        total += parts.has(number, batch)
        if file.suffix == ".jsonl":
            check_for_jsonl(row.id, row.columns)
    make_folder(file.parent)
    runner = _Runner(columns, known, components)
    pictures: dict[int, str | DataError] = {}  # of this process's share
    scored = done = 0
    for block, numbered in groupby(enumerate(read_pictures(source)), key=lambda each: each[0] // batch):
        if not parts.has(block):
            continue
        rows = list(numbered)
        found = [runner.look(row) for _, row in rows]
        lines = runner.score([(row, each) for (_, row), each in zip(rows, found, strict=True)])
        pictures |= {number: each for (number, _), each in zip(rows, found, strict=True)}
        unread = [row for (_, row), each in zip(rows, found, strict=True) if isinstance(each, DataError)]
        parts.add([*lines, *(known.part_line(row, "", {}) for row in unread)])
        scored += len(lines)
        done += len(rows)
        if progress is not None:
            progress(done, total)
    summary = _finish(source, file, parts, runner, pictures)
    return Scored(file, scored, total - scored, summary)


def _refuse_to_hide(source: Path, file: Path) -> None:
    """A folder is read by its metadata.jsonl, else its parquet files, else its pictures."""
    if file.suffix == ".parquet" or (file.name == LISTING and any(source.glob("*.parquet"))):
        what = "a parquet file among the pictures" if file.suffix == ".parquet" else "a listing beside parquet files"
        raise ConfigError(f"out: {file}: {what} would be read in their place; write a .jsonl of another name")


class _Runner:
    def __init__(self, rewards: Mapping[str, Reward], known: KnownScores, components: bool) -> None:
        self.rewards, self.known, self.components = rewards, known, components
        self.simple = {  # columns of rewards that are made of nothing, as far as is known before they have scored
            column for column, each in rewards.items() if isinstance(each, BatchReward) and not each.components
        }

    def look(self, row: PictureRow) -> str | DataError:
        """The picture's digest, or why it cannot be had."""
        try:
            return self.known.digest(row.picture, row.id)
        except DataError as error:
            return error

    def look_at_reference(self, row: PictureRow) -> str | None:
        """The digest of the row's reference; None where no reward compares, and without one that can be read."""
        if not any(_compares(reward) for reward in self.rewards.values()):
            return None
        try:
            return None if row.reference is None else self.known.digest(row.reference, row.id)
        except DataError:
            return None

    def scores(self, row: PictureRow, picture: str | DataError) -> dict[str, Score | None]:
        """By column; None where nothing is known."""
        if isinstance(picture, DataError):
            return {column: Score(None, str(picture)) for column in self.rewards}
        reference = self.look_at_reference(row) or ""
        found = {
            column: self.known.scores.get(score_key(reward.spec, row.prompt, picture, reference))
            for column, reward in self.rewards.items()
        }
        if self.components:
            found = {column: None if self._lacks_parts(column, each) else each for column, each in found.items()}
        return found

    def _lacks_parts(self, column: str, score: Score | None) -> bool:
        """Whether it was scored when nobody asked for the parts that it has."""
        if score is None or score.value is None:
            return False
        return score.components is None and column not in self.simple

    def score(self, rows: Sequence[tuple[PictureRow, str | DataError]]) -> list[dict[str, Any]]:
        """Score what is not known, and return the lines that say so."""
        new: dict[int, dict[str, Score]] = {}
        samples: dict[tuple[int, bool], Sample] = {}
        known = [self.scores(row, picture) for row, picture in rows]
        references = [self.look_at_reference(row) or "" for row, _ in rows]
        for column, reward in self.rewards.items():
            compares = _compares(reward)
            keys = [
                score_key(reward.spec, row.prompt, str(picture), reference)
                for (row, picture), reference in zip(rows, references, strict=True)
            ]
            readable = []
            for place in [place for place, scores in enumerate(known) if scores[column] is None]:
                new.setdefault(place, {})
                try:
                    if (place, compares) not in samples:
                        samples[place, compares] = _sample(rows[place][0], compares=compares)
                    readable.append(place)
                except DataError as error:
                    new[place][keys[place]] = Score(None, str(error))
            if readable:
                output = reward.score([samples[place, compares] for place in readable])
                if not output.components:
                    self.simple.add(column)
                for index, place in enumerate(readable):
                    new[place][keys[place]] = self._score_of(output, index)
        for each in new.values():
            self.known.scores |= each
        return [self.known.part_line(rows[place][0], str(rows[place][1]), each) for place, each in sorted(new.items())]

    def _score_of(self, output: RewardOutput, index: int) -> Score:
        value = output.values[index].item()
        if not math.isfinite(value):
            return Score(None, output.reasons[index] or f"the reward is {value}")
        if not self.components:
            return Score(short(value))
        return Score(short(value), None, {name: short(each[index].item()) for name, each in output.components.items()})


def _compares(reward: Reward) -> bool:
    return "reference" in reward.spec.needs


def _sample(row: PictureRow, *, compares: bool) -> Sample:
    """The picture with what the source says of it; where it is compared, with its reference read too.

    Raises:
        DataError: one of them cannot be read; names the record.
    """
    image = decoded(picture_bytes(row.picture, row.id), row.id)
    reference = row.reference if compares else None
    if reference is None:
        return Sample(image, row.prompt, row.columns, row.id)
    try:
        read = decoded(picture_bytes(reference, row.id), row.id)
    except DataError as error:
        raise DataError(f"reference: {error}") from None
    return Sample(image, row.prompt, {**row.columns, "reference": read}, row.id)


def _finish(
    source: Path, file: Path, parts: PartFiles, runner: _Runner, pictures: Mapping[int, str | DataError]
) -> dict[str, Any] | None:
    """Write the rows and remove the parts, if every picture is known; the summary then."""
    if parts.world > 1:
        own = dict(runner.known.scores)
        runner.known.add_parts(parts, failures=True)  # what the others did meanwhile
        if file.exists():  # another one may have written it just now
            runner.known.add_rows(
                file, {column: reward.spec for column, reward in runner.rewards.items()}, failures=True
            )
        runner.known.scores |= own
    summaries = {column: ScoreSummary(reward) for column, reward in runner.rewards.items()}
    try:
        write_rows(file, _rows(source, file, runner, pictures, summaries), parts.draft)
    except _NotYet:
        return None
    except FileNotFoundError:
        if parts.world == 1:
            raise  # else another process has written the same rows, and tidied up
    parts.remove()
    return {column: each.facts() for column, each in summaries.items()}


class _NotYet(Exception):
    """Another process has still to score its share."""


def _rows(
    source: Path,
    file: Path,
    runner: _Runner,
    pictures: Mapping[int, str | DataError],
    summaries: Mapping[str, ScoreSummary],
) -> Iterator[dict[str, Any]]:
    versions = {column: reward.spec.version for column, reward in runner.rewards.items()}
    for number, row in enumerate(read_pictures(source)):
        another_s = number not in pictures and row.file is not None and not file.exists()
        if another_s and str(row.file) not in runner.known.digests:
            raise _NotYet  # without a look at the picture
        picture = pictures[number] if number in pictures else runner.look(row)
        scores = runner.scores(row, picture)
        told: dict[str, Any] = {}
        for column, score in scores.items():
            if score is None:
                raise _NotYet
            summaries[column].add(score)
            told |= score_columns(column, score, components=runner.components)
        digest = None if isinstance(picture, DataError) else picture
        yield scored_row(row, file, digest, told, versions, runner.look_at_reference(row))
