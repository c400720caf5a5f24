"""The tokenizer and the small CLIP text encoders of the shapes models: one token a word, 16 tokens a caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffalign.rewards.scene import captions

LENGTH = 16
_END = "</w>"  # stands behind a word's last letter


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of the caption grammar (any other word is spelled in letters)."""
    return build_word_tokenizer(
        Counter(
            word for kind in ("single", "count", "both", "relation") for text in captions(kind) for word in text.split()
        ),
        LENGTH,
    )


def build_word_tokenizer(counts: Mapping[str, int], length: int) -> CLIPTokenizer:
    """A byte-pair tokenizer whose merges make each of these words one token.

    The same at every call: a model that is trained on from files must find its words under their old numbers. (The trainer
    of the library `tokenizers` numbers them differently each time.)
    """
    letters = [chr(code) for code in range(33, 127)]
    merges = learn_merges(counts)
    tokens = [*letters, *(letter + _END for letter in letters), *("".join(pair) for pair in merges)]
    specials = ("<|startoftext|>", "<|endoftext|>")
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, *specials]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def learn_merges(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each of the words one token: the commonest pair first, of equals the first by alphabet."""
    spelt = {word: [*word[:-1], word[-1] + _END] for word in counts}
    merges = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelt.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelt.values():
            for at in range(len(parts) - 2, -1, -1):
                if tuple(parts[at : at + 2]) == best:
                    parts[at : at + 2] = ["".join(best)]


def text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    return CLIPTextModel(text_config(tokenizer, width, layers))


def build_projected_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(text_config(tokenizer, width, layers))
