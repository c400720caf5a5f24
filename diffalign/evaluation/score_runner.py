"""What scores the rows of a source by several rewards, each as a sample of the medium that the reward judges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffalign.data.picture_rows import PictureRow
from diffalign.evaluation.known_scores import KnownScores, Score, score_key
from diffalign.evaluation.score_rows import metadata_digest, short
from diffalign.evaluation.score_samples import reason_of, sample_of
from diffalign.exceptions import DataError
from diffalign.rewards import BatchReward, Reward, RewardOutput, Sample


class ScoreRunner:
    """Scores what is not known yet.

    Attributes:
        rewards: by column.
        known: what is known; what is new joins it.
        components: whether each reward's parts are asked for.
        asked: the keys of all scores that were asked for.
    """

    def __init__(self, rewards: Mapping[str, Reward], known: KnownScores, components: bool) -> None:
        self.rewards, self.known, self.components = rewards, known, components
        self.asked: set[str] = set()
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

    def look_at_metadata(self, row: PictureRow) -> str | None:
        """A digest of what the source says of the row besides; None where no reward reads it."""
        reads = any("metadata" in {*reward.spec.needs, *reward.spec.reads} for reward in self.rewards.values())
        return metadata_digest(row) if reads else None

    def scores(self, row: PictureRow, picture: str | DataError) -> dict[str, Score | None]:
        """By column; None where nothing is known."""
        if isinstance(picture, DataError):
            return {column: Score(None, reason_of(picture)) for column in self.rewards}
        reference, metadata = self.look_at_reference(row) or "", self.look_at_metadata(row) or ""
        keys = {
            column: score_key(reward.spec, row.prompt, picture, reference, metadata)
            for column, reward in self.rewards.items()
        }
        self.asked.update(keys.values())
        found = {column: self.known.scores.get(key) for column, key in keys.items()}
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
        samples: dict[tuple[int, str, bool], Sample] = {}
        known = [self.scores(row, picture) for row, picture in rows]
        seen = [(self.look_at_reference(row) or "", self.look_at_metadata(row) or "") for row, _ in rows]
        for column, reward in self.rewards.items():
            compares, medium = _compares(reward), reward.spec.media
            keys = [
                score_key(reward.spec, row.prompt, str(picture), *digests)
                for (row, picture), digests in zip(rows, seen, strict=True)
            ]
            readable = []
            for place in [place for place, scores in enumerate(known) if scores[column] is None]:
                new.setdefault(place, {})
                try:
                    if (place, medium, compares) not in samples:
                        samples[place, medium, compares] = sample_of(
                            rows[place][0], medium, reward.spec.name, compares=compares
                        )
                    readable.append(place)
                except DataError as error:
                    new[place][keys[place]] = Score(None, reason_of(error))
            if readable:
                output = reward.score([samples[place, medium, compares] for place in readable])
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
