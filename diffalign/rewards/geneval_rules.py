"""GenEval's rules: what a prompt asks for, compared with what a detector found. Pure Python.

Requirements come in the published format, one line of the benchmark's `evaluation_metadata.jsonl`:

    {"tag": "color_attr", "include": [{"class": "bus", "count": 1, "color": "green"}, ...], "prompt": "..."}
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], ...}
    {"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]}

Source: Ghosh et al. 2023, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment", and its
evaluation/evaluate_images.py; the soft scores: Liu et al. 2025, "Flow-GRPO", and its reward server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.exceptions import DataError

__all__ = [
    "COLOURS",
    "Detection",
    "Requirement",
    "Requirements",
    "keep_detections",
    "read_requirements",
    "relative_position",
    "soft_score",
    "strict_score",
]

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_RELATIONS = ("left of", "right of", "above", "below")
_THRESHOLD, _COUNTING_THRESHOLD = 0.3, 0.9  # of confidence; the second where objects are counted
_MOST = 16  # objects of a class
_SHRUNK = 0.1  # of the boxes' sizes, by which their distance is less
_HALF = 0.5  # of the distance, which must lie in a direction


@dataclass(frozen=True)
class Detection:
    """An object that a detector found.

    Attributes:
        name: its class.
        score: confidence, in [0, 1].
        box: left, top, right, bottom, in pixels, y down.
        colour: one of `COLOURS`; "" where nobody asked for it.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    colour: str = ""


@dataclass(frozen=True)
class Requirement:
    """`count` objects of a class; of a colour, and on a side of those of an earlier requirement, where these are given."""

    name: str
    count: int
    colour: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Requirements:
    """What a prompt asks for: all of `include`, and nothing of `exclude` (so many of a class, or more)."""

    tag: str
    include: tuple[Requirement, ...]
    exclude: tuple[Requirement, ...] = ()


def read_requirements(metadata: Mapping[str, Any]) -> Requirements:
    """The requirements of one line of the published format; keys that it does not use are ignored.

    Raises:
        DataError: names the key, what was seen and what was expected.
    """
    include = _listed(metadata, "include")
    if not include:
        raise DataError('include: must list what the picture has to show, as [{"class": "dog", "count": 1}], got none')
    for place, wanted in enumerate(include):
        if wanted.position and not 0 <= wanted.position[1] < place:
            raise DataError(
                f"include[{place}].position: must name an earlier entry, 0 to {place - 1}, got {wanted.position[1]}"
                if place
                else "include[0].position: the first entry has no earlier one to stand beside"
            )
    return Requirements(str(metadata.get("tag") or ""), include, _listed(metadata, "exclude"))


def _listed(metadata: Mapping[str, Any], key: str) -> tuple[Requirement, ...]:
    given = metadata.get(key)
    if given is None:  # a column of a table has it for every row
        return ()
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise DataError(f"{key}: must be a list of requirements, got {given!r:.100}")
    return tuple(_requirement(f"{key}[{place}]", entry) for place, entry in enumerate(given))


def _requirement(path: str, entry: Any) -> Requirement:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class"), str):
        raise DataError(f'{path}: must have a class, as {{"class": "dog", "count": 1}}, got {entry!r:.100}')
    count, colour, position = entry.get("count"), entry.get("color"), entry.get("position")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise DataError(f"{path}.count: must be a whole number, 1 or more, got {count!r}")
    if colour is not None and colour not in COLOURS:
        raise DataError(f"{path}.color: must be one of {', '.join(COLOURS)}, got {colour!r}")
    if position is None:
        return Requirement(entry["class"], count, colour)
    pair = list(position) if isinstance(position, Sequence) and not isinstance(position, str) else []
    if len(pair) != 2 or pair[0] not in _RELATIONS or not str(pair[1]).isdigit():  # a table may hold both as text
        told = f"[one of {', '.join(_RELATIONS)}; the place of an earlier entry]"
        raise DataError(f"{path}.position: must be {told}, got {position!r}")
    return Requirement(entry["class"], count, colour, (pair[0], int(pair[1])))


def keep_detections(found: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """What counts, by class, surest first: above 0.3 (with the tag "counting" above 0.9), and 16 of a class at most."""
    least = _COUNTING_THRESHOLD if tag == "counting" else _THRESHOLD
    kept: dict[str, list[Detection]] = {}
    for one in sorted(found, key=lambda each: -each.score):
        same = kept.setdefault(one.name, [])
        if one.score > least and len(same) < _MOST:
            same.append(one)
    return {name: same for name, same in kept.items() if same}


def relative_position(one: Detection, other: Detection) -> frozenset[str]:
    """On which sides of `other` `one` lies: one direction or two, or none.

    The offset of the centres is made less by 0.1 times both boxes' sizes; a side counts where more than half of the whole
    distance lies that way.
    """
    centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (one.box, other.box)]
    offsets = [centres[0][axis] - centres[1][axis] for axis in (0, 1)]
    sizes = [abs(one.box[axis + 2] - one.box[axis]) + abs(other.box[axis + 2] - other.box[axis]) for axis in (0, 1)]
    left = [
        math.copysign(max(abs(offset) - _SHRUNK * size, 0), offset) for offset, size in zip(offsets, sizes, strict=True)
    ]
    if max(map(abs, left)) < 1e-3:
        return frozenset()
    dx, dy = (each / math.hypot(*offsets) for each in left)
    sides = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return frozenset(side for side, share in sides.items() if share > _HALF)


def strict_score(wanted: Requirements, kept: Mapping[str, Sequence[Detection]]) -> float:
    """The benchmark's own: 1 if all is there and nothing of what should not be, else 0.

    Of more objects of a class than are wanted the surest count, for colour and position too.
    """
    groups: list[Sequence[Detection] | None] = []
    for need in wanted.include:
        found = list(kept.get(need.name, ()))[: need.count]
        fits = len(found) == need.count and (need.colour is None or all(one.colour == need.colour for one in found))
        fits = fits and (need.position is None or _stands(found, groups[need.position[1]], need.position[0]))
        groups.append(found if fits else None)
    too_many = any(len(kept.get(need.name, ())) >= need.count for need in wanted.exclude)
    return float(all(group is not None for group in groups) and not too_many)


def soft_score(wanted: Requirements, kept: Mapping[str, Sequence[Detection]], *, like_flow_grpo: bool = False) -> float:
    """How much is there: the mean over what is asked, as Flow-GRPO trains on it.

    Per requirement `1 - |wanted - found| / wanted` for the count; where the count is right the same for the colour, and 1
    or 0 for the position; else 0 for these. `exclude` is not looked at: a wrong count says the same.

    Args:
        wanted, kept: as of `read_requirements` and `keep_detections`.
        like_flow_grpo: as its code counts. False: every part lies in [0, 1] (in its code many objects too many are
            below 0), a missed position counts 0 (in its code 0 and 1, both), and colour and position that both go
            unasked, for the count is wrong, count 0 each (in its code one 0 for both; nothing for a position that goes
            unasked because of the colour).
    """
    scores: list[float] = []
    groups: list[Sequence[Detection] | None] = []
    for need in wanted.include:
        found = list(kept.get(need.name, ()))
        scores.append(1 - abs(need.count - len(found)) / need.count)
        fits = len(found) == need.count
        asked = [need.colour is not None, need.position is not None]
        if not fits:
            scores += [0.0] * (min(sum(asked), 1) if like_flow_grpo else sum(asked))
        else:
            if need.colour is not None:
                right = sum(one.colour == need.colour for one in found)
                scores.append(1 - abs(need.count - right) / need.count)
                fits = right == need.count
            if need.position is not None and (fits or not like_flow_grpo):
                beside = groups[need.position[1]]
                stands = fits and _stands(found, beside, need.position[0])
                scores.append(float(stands))
                if like_flow_grpo and not stands and beside is not None:
                    scores.append(1.0)
                fits = stands
        groups.append(found if fits else None)
    if not like_flow_grpo:
        scores = [min(max(score, 0.0), 1.0) for score in scores]
    return sum(scores) / len(scores)


def _stands(found: Sequence[Detection], beside: Sequence[Detection] | None, side: str) -> bool:
    """Whether all of `found` lie on that side of all of `beside`."""
    return beside is not None and all(side in relative_position(one, other) for one in found for other in beside)
