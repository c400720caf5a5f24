"""How far a text that was read is from the one that was wanted: letters to change, and the reward made of them."""

from __future__ import annotations

import unicodedata

__all__ = ["compared_text", "edit_distance", "edit_reward", "text_distance"]


def edit_distance(first: str, second: str) -> int:
    """Letters to insert, delete or replace until one text is the other (Levenshtein)."""
    above = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        here = [row]
        for column, other in enumerate(second, 1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (letter != other)))
        above = here
    return above[-1]


def compared_text(text: str, *, nfkc: bool = True) -> str:
    """The text as it is compared: without spaces, in lower case; with `nfkc`, compatible letters as plain ones.

    Args:
        text: any.
        nfkc: full-width letters, ligatures and other spaces become plain ones first (Unicode's form NFKC). Recognisers that
            also know Chinese return them; Flow-GRPO compares without.
    """
    return (unicodedata.normalize("NFKC", text) if nfkc else text).replace(" ", "").lower()


def text_distance(recognised: str, target: str) -> int:
    """0 where `target` stands anywhere in `recognised`; else their edit distance, but at most the target's length.

    Args:
        recognised: what was read, as `compared_text` returns it.
        target: what was wanted, likewise.
    """
    if target in recognised:
        return 0
    if abs(len(recognised) - len(target)) >= len(target):  # so many insertions at least
        return len(target)
    return min(edit_distance(recognised, target), len(target))


def edit_reward(recognised: str, target: str, *, nfkc: bool = True) -> float:
    """How much of a text was read, `1 - distance / length of the target`, from 0 to 1; case and spaces do not count.

    1 where the target stands anywhere in what was read, whatever stands around it.

    Args:
        recognised: what was read, all lines one after another.
        target: what was wanted.
        nfkc: as in `compared_text`; False as Flow-GRPO compares.

    Raises:
        ValueError: nothing is left of the target but spaces: there is no such share.

    Source: Liu et al. 2025, "Flow-GRPO: Training Flow Matching Models via Online RL", the reward for rendered text; as in
        its code, which also counts a text within another as read.

    Example:
        `edit_reward("HELL0 WORLD", "Hello World")` is 0.9
    """
    target = compared_text(target, nfkc=nfkc)
    if not target:
        raise ValueError("target: there is no letter in it, so that no share of it can be read")
    return 1 - text_distance(compared_text(recognised, nfkc=nfkc), target) / len(target)
