"""The tokenizer of the shapes models: each word of the grammar one token, under the same number at every call."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from diffalign.rewards.scene import captions
from makers.shapes_text import build_tokenizer, learn_merges

CODE = (
    "import hashlib; from makers.shapes_text import build_tokenizer\n"
    "print(hashlib.sha256(build_tokenizer().backend_tokenizer.to_str().encode()).hexdigest())\n"
)


def test_every_word_is_one_token_and_others_are_spelt():
    tokenizer = build_tokenizer()
    words = {
        word for kind in ("single", "count", "both", "relation") for text in captions(kind) for word in text.split()
    }
    assert {word: len(tokenizer.tokenize(word)) for word in words} == dict.fromkeys(words, 1)
    assert tokenizer.tokenize("xyz") == ["x", "y", "z</w>"]
    assert tokenizer("a red circle").input_ids[0] == tokenizer.bos_token_id


def test_processes_agree_on_the_numbers_of_the_words():
    seen = {hashlib.sha256(build_tokenizer().backend_tokenizer.to_str().encode()).hexdigest()}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert {run.stdout.strip()} == seen


def test_merges_by_hand():
    assert learn_merges({"aab": 2, "ab": 1}) == [("a", "b</w>"), ("a", "ab</w>")]
    assert learn_merges({"a": 5}) == []
