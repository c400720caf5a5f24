"""Every picture, sound or video of a source by several rewards, to a file; gone on with wherever it was cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.data.part_files import PartFiles
from diffalign.data.picture_rows import read_pictures
from diffalign.data.row_files import LISTING, check_for_jsonl, make_folder, rows_file, write_rows
from diffalign.evaluation.kept_scores import check_nothing_is_lost
from diffalign.evaluation.known_scores import KnownScores
from diffalign.evaluation.score_rows import ScoreSummary, by_column, score_columns, scored_row
from diffalign.evaluation.score_runner import ScoreRunner
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import Reward


class Scored(NamedTuple):
    """What a call of `score_records` did.

    Attributes:
        file: that was written.
        scored: pictures that this process scored by one reward at least.
        known: pictures of its share that needed no scoring.
        summary: per column what the reward is, `scored` and `unscored` pictures, `reasons`, of each reason the id of the
            first picture (`first_unscored`), and of the scored ones `mean`, `std` (population), `least`, `greatest`; None
            before the last of several processes has finished.
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
    prompt: str = "",
    batch: int = 16,
    lose_nothing: bool = False,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Scored:
    """Score every picture, sound or video of `source`, and write one row for each, in the source's order.

        score_records(Path("drawn"), Path("drawn/scores.jsonl"), [load_reward("scene"), load_reward("jpeg")])

    A row has id, file_name (relative to `out`), prompt, the source's other columns, one column a reward (null where
    unscored; `NAME_reason` then says why), `picture` (a digest of its bytes) and `versions` (column -> the reward's
    version). Rewards that compare (psnr, ssim) do so with the picture that the source's column `reference` names, by a
    path relative to the source's file, or holds; rows then also have `reference_picture`, its digest. Where a reward reads
    the other columns, rows have `metadata_digest`, theirs. A file of another medium than the reward judges is unscored.

    What `out`, or a call that was cut off, holds of the same reward version, picture bytes, prompt and reference, and of
    the same other columns if the reward reads them, is not scored again; what could not be scored is tried again. Several
    processes each score every `world`-th batch, none waits for another, and the last one to finish writes `out`.

    Args:
        source: what `read_pictures` reads.
        out: a .jsonl, .parquet or .csv, or a folder, which gets a metadata.jsonl. It may be `source` itself if that is a
            .jsonl or .parquet that an earlier call wrote, whose columns are kept; or a folder of pictures without records,
            which from then on are those that its metadata.jsonl lists.
        rewards: by column, or a list, whose columns are their names.
        components: also write what each reward is made of, as columns NAME.PART.
        prompt: of the pictures that have none.
        batch: pictures at a time.
        lose_nothing: refuse an `out` that holds what this call would take the place of: rows of another source, another
            prompt, scores by other rewards, components that are not asked for now.
        rank, world: which of how many processes this is.
        progress: called after every batch with (pictures done, pictures of this process's share).

    Raises:
        ConfigError: no rewards, two of one name, one that does not judge single samples, `out` holds something else, or
            another call is writing it.
        DataError: the source cannot be read, or has a column that `out` cannot hold. A single picture that cannot be read
            is unscored.
    """
    columns = by_column(rewards)
    file = rows_file(out, also=(".csv",))
    if file.parent.resolve() == source.resolve() and not (source / LISTING).exists():
        _refuse_to_hide(source, file)
    # the parts of a listing are generate's: they say that not all is drawn
    parts = PartFiles(file.with_name(f"{LISTING}.scores") if file.name == LISTING else file, rank, world)
    make_folder(file.parent)
    with parts.held():
        return _scored(source, file, parts, columns, components, prompt, batch, lose_nothing, progress)


def _scored(
    source: Path,
    file: Path,
    parts: PartFiles,
    columns: Mapping[str, Reward],
    components: bool,
    prompt: str,
    batch: int,
    lose_nothing: bool,
    progress: Callable[[int, int], object] | None,
) -> Scored:
    known = KnownScores()
    if lose_nothing and file.resolve() not in (source.resolve(), source.resolve() / LISTING):  # whose columns are kept
        versions = {column: reward.spec.version for column, reward in columns.items()}
        check_nothing_is_lost(file, read_pictures(source, prompt), versions, components=components)
    if file.exists():
        known.add_rows(file, {column: reward.spec for column, reward in columns.items()}, failures=False)
    known.add_parts(parts, failures=False)
    total = 0
    for number, row in enumerate(read_pictures(source, prompt)):
        total += parts.has(number, batch)
        if file.suffix != ".parquet":
            check_for_jsonl(row.id, row.columns)
    runner = ScoreRunner(columns, known, components)
    pictures: dict[int, str | DataError] = {}  # of this process's share
    scored = done = unreadable = 0
    for block, numbered in groupby(enumerate(read_pictures(source, prompt)), key=lambda each: each[0] // batch):
        if not parts.has(block):
            continue
        rows = list(numbered)
        found = [runner.look(row) for _, row in rows]
        lines = runner.score([(row, each) for (_, row), each in zip(rows, found, strict=True)])
        pictures |= {number: each for (number, _), each in zip(rows, found, strict=True)}
        unread = [row for (_, row), each in zip(rows, found, strict=True) if isinstance(each, DataError)]
        parts.add(known.part_of([*lines, *(known.part_line(row, "", {}) for row in unread)]))
        scored += len(lines)
        unreadable += len(unread)
        done += len(rows)
        if progress is not None:
            progress(done, total)
    summary = _finish(source, file, parts, runner, pictures, prompt)
    return Scored(file, scored, total - scored - unreadable, summary)


def _refuse_to_hide(source: Path, file: Path) -> None:
    """A folder is read by its metadata.jsonl, else its parquet files, else its pictures."""
    if file.suffix == ".parquet" or (file.name == LISTING and any(source.glob("*.parquet"))):
        what = "a parquet file among the pictures" if file.suffix == ".parquet" else "a listing beside parquet files"
        raise ConfigError(f"out: {file}: {what} would be read in their place; write a .jsonl of another name")


def _finish(
    source: Path,
    file: Path,
    parts: PartFiles,
    runner: ScoreRunner,
    pictures: Mapping[int, str | DataError],
    prompt: str,
) -> dict[str, Any] | None:
    """Write the rows and remove the parts, if every picture is known; the summary then.

    What another call, with other rewards, had in the parts when it was cut off stays there for it.
    """
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
        write_rows(file, _rows(source, file, runner, pictures, summaries, prompt), parts.draft)
    except _NotYet:
        return None
    except FileNotFoundError:
        if parts.world == 1:
            raise  # else another process has written the same rows, and tidied up
    parts.keep(runner.known.others_in(parts, runner.asked))
    return {column: each.facts() for column, each in summaries.items()}


class _NotYet(Exception):
    """Another process has still to score its share."""


def _rows(
    source: Path,
    file: Path,
    runner: ScoreRunner,
    pictures: Mapping[int, str | DataError],
    summaries: Mapping[str, ScoreSummary],
    prompt: str,
) -> Iterator[dict[str, Any]]:
    versions = {column: reward.spec.version for column, reward in runner.rewards.items()}
    for number, row in enumerate(read_pictures(source, prompt)):
        another_s = number not in pictures and row.file is not None and not file.exists()
        if another_s and str(row.file) not in runner.known.digests:
            raise _NotYet  # without a look at the picture
        picture = pictures[number] if number in pictures else runner.look(row)
        scores = runner.scores(row, picture)
        told: dict[str, Any] = {}
        for column, score in scores.items():
            if score is None:
                raise _NotYet
            summaries[column].add(score, row.id)
            told |= score_columns(column, score, components=runner.components)
        digest = None if isinstance(picture, DataError) else picture
        yield scored_row(row, file, digest, told, versions, runner.look_at_reference(row), runner.look_at_metadata(row))
