"""What the page is told of a folder, and what it sends back: left and right, never which file is which."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffalign.annotation.comparisons import Comparison, first_side
from diffalign.annotation.pictures import picture_type
from diffalign.annotation.votes import CHOICES, Vote, VoteFile, is_duration, now
from diffalign.exceptions import DataError

_LONGEST_NAME = 64


class Ballot:
    """A folder's comparisons as one person after the other sees them, and their votes.

    Attributes:
        comparisons: by id, in the order in which they are shown.
        votes: where the votes go.
    """

    def __init__(self, folder: Path, comparisons: Sequence[Comparison], seed: int, votes: VoteFile) -> None:
        """`seed` decides, with comparison and person, which picture stands on the left."""
        self.comparisons = {each.id: each for each in comparisons}
        self.votes = votes
        self._folder = folder
        self._seed = seed
        self._secret = secrets.token_bytes(16)
        names = (name for each in comparisons for name in (each.a, each.b))
        self._pictures = {self._address(name): name for name in names}

    def counted(self) -> list[Vote]:
        """The votes on comparisons that are shown: others are of pictures that are gone, or of an earlier plan."""
        return [vote for vote in self.votes.votes if vote.comparison in self.comparisons]

    def session(self, rater: str | None) -> dict[str, Any]:
        """What the page shows: who has voted, and for one person the list of comparisons with the votes so far."""
        votes = self.counted()
        done: dict[str, int] = {}
        for vote in votes:
            done[vote.rater] = done.get(vote.rater, 0) + 1
        content: dict[str, Any] = {"total": len(self.comparisons), "raters": done}
        if rater is not None:
            mine = {vote.comparison: vote for vote in votes if vote.rater == rater}
            content["comparisons"] = [self._shown(each, rater, mine.get(each.id)) for each in self.comparisons.values()]
        return content

    def add(self, said: Mapping[str, Any]) -> None:
        """Take a vote as the page sends it: comparison, rater, choice (left, right, tie, bad, skip), seconds.

        Raises:
            DataError: it is not one.
            SaveError: it was not saved.
        """
        each = self.comparisons.get(str(said.get("comparison")))
        if each is None:
            raise DataError("this comparison is not in the folder any more; reload the page")
        rater, choice, seconds = checked_rater(said.get("rater")), said.get("choice"), said.get("seconds")
        first = first_side(each.id, rater, self._seed)
        second = "b" if first == "a" else "a"
        vote = {"left": first, "right": second}.get(str(choice), choice)
        if vote not in CHOICES or choice in ("a", "b") or not is_duration(seconds):
            raise DataError(f"not a vote: {choice!r:.40} after {seconds!r:.40} seconds")
        self.votes.add(
            Vote(each.id, each.prompt, each.a, each.b, vote, rater, f"{first}{second}", round(float(seconds), 2), now())  # type: ignore[arg-type]
        )

    def picture(self, address: str) -> tuple[str, bytes] | None:
        """Type and content of a picture of the page; None: it has no such picture.

        Raises:
            DataError: it is there no longer.
        """
        name = self._pictures.get(address)
        return None if name is None else (picture_type(self._folder, name), (self._folder / name).read_bytes())

    def _shown(self, each: Comparison, rater: str, vote: Vote | None) -> dict[str, Any]:
        first = first_side(each.id, rater, self._seed)
        left, right = (each.a, each.b) if first == "a" else (each.b, each.a)
        choice = None if vote is None else vote.vote
        if choice in ("a", "b"):
            choice = "left" if choice == first else "right"  # type: ignore[assignment]
        return {
            "id": each.id,
            "prompt": each.prompt,
            "left": self._address(left),
            "right": self._address(right),
            "choice": choice,
        }

    def _address(self, name: str) -> str:
        """Says nothing of the file, not even by its length or order."""
        return "/picture/" + hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()[:24]


def checked_rater(name: object) -> str:
    """A person's name as votes have it.

    Raises:
        DataError: empty, longer than 64 letters, or with letters that do not print.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > _LONGEST_NAME or not text.isprintable():
        raise DataError(f"rater: must be a name of 1 to {_LONGEST_NAME} letters, got {name!r:.80}")
    return text
