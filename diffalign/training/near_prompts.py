"""Prompts that share most words with a prompt: the hard ones to tell it from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from diffalign.rewards.scorers import split_words

NEAREST = 16  # of each prompt
_CANDIDATES = 4096  # of more prompts, only these are looked at: the table stays small and is made at once
_CHUNK = 256


def near_prompts(prompts: Sequence[str], most: int = NEAREST) -> Tensor:
    """For each prompt the numbers of the others that share most words with it [prompts, up to `most`], nearest first.

    Words count as often as they stand there, and their order does not count: "a cat on a dog" is as near to "a dog on a
    cat" as can be. The measure is Jaccard's: words that both have, over words that either has.
    """
    bags = [Counter(split_words(prompt)) for prompt in prompts]
    words: dict[tuple[str, int], int] = {}  # (word, how many times before)
    rows = [
        [words.setdefault((word, time), len(words)) for word, count in bag.items() for time in range(count)]
        for bag in bags
    ]
    some = min(len(prompts), _CANDIDATES)
    told = torch.zeros(some, len(words))
    for number, row in enumerate(rows[:some]):
        told[number, row] = 1.0
    found = []
    for start in range(0, len(prompts), _CHUNK):
        asked = torch.zeros(len(rows[start : start + _CHUNK]), len(words))
        for number, row in enumerate(rows[start : start + _CHUNK]):
            asked[number, row] = 1.0
        shared = asked @ told.T
        likeness = shared / (asked.sum(1, keepdim=True) + told.sum(1) - shared)
        for number in range(start, min(start + _CHUNK, some)):
            likeness[number - start, number] = -1.0  # itself
        found.append(likeness.argsort(dim=1, descending=True, stable=True)[:, : min(most, some - 1)])
    return torch.cat(found)
