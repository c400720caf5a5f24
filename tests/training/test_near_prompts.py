"""Which prompts are near: by words, not by their order."""

from __future__ import annotations

from diffalign.training.near_prompts import near_prompts


def test_same_words_come_first_and_itself_never():
    prompts = ["a cat on a dog", "a dog on a cat", "a cat on a mat", "two birds", "A cat, on a dog"]
    nearest = near_prompts(prompts, 4).tolist()
    assert nearest[0] == [1, 4, 2, 3]  # by hand: 5 of 5 words, 5 of 6, 4 of 6, none
    assert all(row not in near for row, near in enumerate(nearest))
    assert near_prompts(["a a cat", "a cat", "cat cat"], 1).tolist() == [[1], [0], [1]]  # how often counts


def test_few_prompts_and_many():
    assert near_prompts(["one"]).shape == (1, 0)
    assert near_prompts(["one", "two"]).tolist() == [[1], [0]]
    many = near_prompts([f"a{row // 2} b{row // 2} side{row % 2}" for row in range(600)], 3)
    assert many.shape == (600, 3)
    assert all(int(many[row, 0]) == row ^ 1 and row not in many[row].tolist() for row in range(600))
