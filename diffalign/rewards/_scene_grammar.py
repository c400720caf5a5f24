"""The caption grammar of scenes: the words there are, what a caption asks for, and which captions are held out."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import Literal

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 48, 48),
    "green": (48, 180, 72),
    "blue": (48, 104, 240),
    "yellow": (248, 214, 48),
    "purple": (190, 60, 210),
    "white": (244, 244, 244),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLURALS = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}
NUMBERS = {"two": 2, "three": 3}
RELATIONS = ("left of", "right of", "above", "below")
Kind = Literal["single", "count", "both", "relation"]


@dataclass(frozen=True)
class Thing:
    """`count` objects of one colour and shape."""

    colour: str
    shape: str
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """What a caption asks for; `relation` says where the first thing is, seen from the second."""

    things: tuple[Thing, ...]
    relation: str | None = None

    @property
    def kind(self) -> Kind:
        if self.relation:
            return "relation"
        if len(self.things) == 2:
            return "both"
        return "count" if self.things[0].count > 1 else "single"


_THING = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
_COUNT = re.compile(rf"({'|'.join(NUMBERS)}) ({'|'.join(COLOURS)}) ({'|'.join(PLURALS)})")
_PAIR = re.compile(rf"{_THING.pattern} (and|{'|'.join(RELATIONS)}) {_THING.pattern}")


def parse_caption(caption: str) -> Scene | None:
    """Read a caption; None when it is not of the grammar."""
    text = " ".join(caption.lower().split()).rstrip(".")
    if match := _THING.fullmatch(text):
        colour, shape = match.groups()
        return Scene((Thing(colour, shape),))
    if match := _COUNT.fullmatch(text):
        number, colour, shapes = match.groups()
        return Scene((Thing(colour, PLURALS[shapes], NUMBERS[number]),))
    if match := _PAIR.fullmatch(text):
        colour, shape, between, other_colour, other_shape = match.groups()
        relation = None if between == "and" else between
        if (colour, shape) == (other_colour, other_shape):
            return Scene((Thing(colour, shape, 2),)) if relation is None else None
        return Scene((Thing(colour, shape), Thing(other_colour, other_shape)), relation)
    return None


def captions(kind: Kind) -> list[str]:
    """All captions of one kind, in a fixed order: 24 single, 48 count, 552 both, 2,208 relation."""
    singles = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    if kind == "single":
        return singles
    if kind == "count":
        return [f"{number} {colour} {plural}" for number in NUMBERS for colour in COLOURS for plural in PLURALS]
    between = ("and",) if kind == "both" else RELATIONS
    return [f"{a} {word} {b}" for a, b in itertools.permutations(singles, 2) for word in between]


def is_held_out(caption: str) -> bool:
    """One caption in five of the two-object kinds is kept from every training; singles and counts never are."""
    scene = parse_caption(caption)
    if scene is None or scene.kind not in ("both", "relation"):
        return False
    return hashlib.sha256(caption.encode()).digest()[0] < 52


def training_captions() -> list[str]:
    """Every caption that models and alignment may be trained on."""
    return [
        text for kind in ("single", "count", "both", "relation") for text in captions(kind) if not is_held_out(text)
    ]


def held_out_captions() -> list[str]:
    """Every held-out caption, in an order that is fixed but mixed, so that any head of the list is a fair sample."""
    held = [text for kind in ("both", "relation") for text in captions(kind) if is_held_out(text)]
    return sorted(held, key=lambda text: hashlib.sha256(b"order" + text.encode()).digest())
