"""The networks of a learned reward: a picture and a text become one number a dimension.

Every scorer takes pictures and texts apart: `pictures` and `texts` bring each into the form that it keeps (once for a whole
data set), and calling it scores the two together. So a frozen encoder is asked once, and a trained one in every step.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from diffalign.rewards.clip_towers import ClipTowers
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.squares import square

_WORD = re.compile(r"[^\W_]+|[^\w\s]")  # words and numbers, or one punctuation mark
_EMPTY, _UNKNOWN = 0, 1  # rows of the vocabulary
_SPREAD = 0.5  # of words and of their places: with a smaller one the order of the words is learned late
_READINGS = 2  # blocks of self-attention before the words look at the picture


class Scorer(nn.Module, ABC):
    """What a learned reward is made of.

    Attributes:
        dimensions: how many numbers a picture gets.
    """

    dimensions: int

    @abstractmethod
    def pictures(self, pictures: Sequence[Pixels]) -> Tensor:
        """What is kept of pictures [batch, ...], on the CPU; carries no gradient."""

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> Tensor:
        """What is kept of texts [batch, ...], on the CPU; carries no gradient."""

    @abstractmethod
    def of_tensors(self, pictures: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """What `forward` takes of pictures in [0, 1], with gradients to them."""

    @abstractmethod
    def see(self, pictures: Tensor) -> Tensor:
        """What the network makes of pictures alone [batch, ...]; for `judge`, several times over if need be."""

    @abstractmethod
    def judge(self, seen: Tensor, texts: Tensor) -> Float[Tensor, "batch dimensions"]:
        """Score what was seen of each picture with the text beside it."""

    def forward(self, pictures: Tensor, texts: Tensor) -> Float[Tensor, "batch dimensions"]:
        """Score each picture with the text beside it."""
        return self.judge(self.see(pictures), texts)

    @property
    def pixels_kept(self) -> bool:
        """Whether `pictures` keeps pixels [batch, 3, side, side] of 8 bits, which training may move about."""
        return False


class SmallScorer(Scorer):
    """A small CLIP-like scorer to be trained from nothing: words look at the cells of a picture.

    A picture of side x side pixels becomes (side / 4)^2 cells by three convolutions, a text its words (of a vocabulary that
    is given) by self-attention. Then, `depth` times, every word looks at all cells, and the words look at each other. At
    the end words are taken two by two, as "left of" is a matter of two things, and the mean over all pairs is what the
    heads see. It is meant for small worlds such as the zoo's: it has seen no other pictures.

    Source of the pairs: Santoro et al. 2017, "A simple neural network module for relational reasoning".
    """

    def __init__(
        self, words: Sequence[str], *, dimensions: int, side: int, width: int, depth: int, most_words: int
    ) -> None:
        super().__init__()
        self.words, self.dimensions, self.side, self.most_words = list(words), dimensions, side, most_words
        self._rows = {word: row for row, word in enumerate(self.words, start=2)}
        self.cells = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.cell_norm = nn.LayerNorm(width)
        self.cell_places = nn.Parameter(_places(side // 4, width))
        self.word_vectors = nn.Embedding(len(self.words) + 2, width)
        nn.init.normal_(self.word_vectors.weight, std=_SPREAD)
        self.word_places = nn.Parameter(_SPREAD * torch.randn(1, most_words, width))
        self.reading = nn.ModuleList(_Attention(width) for _ in range(_READINGS))
        self.looking = nn.ModuleList(_Attention(width) for _ in range(depth))
        self.talking = nn.ModuleList(_Attention(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.between = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.heads = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dimensions))

    @property
    def pixels_kept(self) -> bool:
        return True

    def pictures(self, pictures: Sequence[Pixels]) -> Tensor:
        """uint8 [batch, 3, side, side]; a picture of another size is scaled (bilinear), its sides apart from each other."""
        return stretched(pictures, self.side)

    def texts(self, texts: Sequence[str]) -> Int[Tensor, "batch words"]:
        """Rows of the vocabulary; words that training has not seen are all one, and those beyond the last place are cut."""
        rows = torch.zeros(len(texts), self.most_words, dtype=torch.long)
        for place, text in enumerate(texts):
            told = [self._rows.get(word, _UNKNOWN) for word in split_words(text)][: self.most_words]
            rows[place, : len(told)] = torch.tensor(told or [_UNKNOWN])[: len(told)]
        rows[:, 0] = torch.where(rows[:, 0] == _EMPTY, _UNKNOWN, rows[:, 0])  # nothing at all cannot be attended to
        return rows

    def of_tensors(self, pictures: Float[Tensor, "batch 3 height width"]) -> Tensor:
        if pictures.shape[-2:] == (self.side, self.side):
            return pictures
        return F.interpolate(
            pictures, size=(self.side, self.side), mode="bilinear", antialias=True, align_corners=False
        )

    def see(self, pictures: Tensor) -> Tensor:
        pixels = pictures if pictures.is_floating_point() else pictures.float() / 255
        return self.cell_norm(self.cells(2 * pixels - 1).flatten(2).transpose(1, 2)) + self.cell_places

    def judge(self, seen: Tensor, texts: Tensor) -> Float[Tensor, "batch dimensions"]:
        there = texts != _EMPTY
        mask = there[:, None, None]
        words = self.word_vectors(texts) + self.word_places
        for read in self.reading:
            words = read(words, None, mask)
        for look, talk in zip(self.looking, self.talking, strict=True):
            words = talk(look(words, seen, None), None, mask)
        words = self.norm(words)
        pairs = self.between(self.first(words)[:, :, None] + self.second(words)[:, None])
        weight = (there[:, :, None] & there[:, None]).to(words)[..., None]
        found: Tensor = self.heads((pairs * weight).sum((1, 2)) / weight.sum((1, 2)))
        return found


class HeadsOnClip(Scorer):
    """Heads over CLIP's vectors of length 1, of the picture and of the text, and over their product; CLIP is frozen.

    What it keeps of pictures and texts are the vectors. CLIP's weights are none of this module's.
    """

    def __init__(self, towers: ClipTowers, *, dimensions: int, hidden: int | None) -> None:
        super().__init__()
        self.dimensions, self.towers = dimensions, towers
        self.heads = _heads_on(towers.features, hidden, dimensions)

    def pictures(self, pictures: Sequence[Pixels]) -> Tensor:
        return self.towers.pictures(pictures)

    def texts(self, texts: Sequence[str]) -> Tensor:
        return self.towers.texts(texts)

    def of_tensors(self, pictures: Float[Tensor, "batch 3 height width"]) -> Tensor:
        return self.towers.tensors(pictures)

    def see(self, pictures: Tensor) -> Tensor:
        return pictures

    def judge(self, seen: Tensor, texts: Tensor) -> Float[Tensor, "batch dimensions"]:
        return _of_vectors(self.heads, seen, texts)


class TunedClip(Scorer):
    """The same heads, and CLIP is trained with them: what it keeps are pixels and tokens."""

    def __init__(self, towers: ClipTowers, *, dimensions: int, hidden: int | None) -> None:
        super().__init__()
        self.dimensions, self.towers = dimensions, towers
        self.clip = towers.model.requires_grad_(True)
        self.heads = _heads_on(towers.features, hidden, dimensions)

    @property
    def pixels_kept(self) -> bool:
        return True

    def pictures(self, pictures: Sequence[Pixels]) -> Tensor:
        """uint8 [batch, 3, side, side], scaled and cut as CLIP does."""
        rows = np.stack([square(each, self.towers.side, self.towers.fit) for each in pictures])
        return torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous()

    def texts(self, texts: Sequence[str]) -> Int[Tensor, "batch 2 tokens"]:
        return self.towers.tokens_of(texts)

    def of_tensors(self, pictures: Float[Tensor, "batch 3 height width"]) -> Tensor:
        return self.towers.squares(pictures)

    def see(self, pictures: Tensor) -> Tensor:
        return self.towers.of_squares(pictures if pictures.is_floating_point() else pictures.float() / 255)

    def judge(self, seen: Tensor, texts: Tensor) -> Float[Tensor, "batch dimensions"]:
        return _of_vectors(self.heads, seen, self.towers.of_tokens(texts))


class _Attention(nn.Module):
    """One block: queries look at themselves or at something else, then at what they have found; both are added."""

    heads = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, seen: Tensor | None, mask: Tensor | None) -> Tensor:
        normed = self.before(queries)
        key, value = self.key_value(normed if seen is None else seen).chunk(2, -1)
        asked, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query(normed), key, value)
        )
        found = F.scaled_dot_product_attention(asked, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        queries = queries + self.out(found)
        return queries + self.inner(self.between(queries))


def _places(side: int, width: int) -> Float[Tensor, "1 cells width"]:
    """Where each cell is, as x and y along two random directions: "left of" is a difference from the start."""
    down, right = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    directions = _SPREAD * torch.randn(2, width)
    return (torch.stack([right.flatten(), down.flatten()], dim=1) @ directions)[None]


def stretched(pictures: Sequence[Pixels], side: int) -> Tensor:
    """uint8 [batch, 3, side, side], scaled where they have another size, sides apart (bilinear; antialiased if smaller)."""
    rows = np.zeros((len(pictures), side, side, 3), dtype=np.uint8)
    for place, pixels in enumerate(pictures):
        if pixels.shape[:2] != (side, side):
            pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
        rows[place] = pixels
    return torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous()


def split_words(text: str) -> list[str]:
    """Words, numbers and punctuation marks of a text, in small letters."""
    return _WORD.findall(text.lower())


def vocabulary(texts: Sequence[str], most: int) -> tuple[list[str], int]:
    """The commonest words of texts (at most so many; in alphabetical order), and how many the longest text has."""
    told = [split_words(text) for text in dict.fromkeys(texts)]
    counts = Counter(word for words in told for word in words)
    kept = sorted(sorted(counts), key=lambda word: -counts[word])[:most]
    return sorted(kept), max((len(words) for words in told), default=1) or 1


def _heads_on(features: int, hidden: int | None, dimensions: int) -> nn.Module:
    if hidden is None:
        return nn.Linear(3 * features, dimensions)
    return nn.Sequential(nn.Linear(3 * features, hidden), nn.GELU(), nn.Linear(hidden, dimensions))


def _of_vectors(heads: nn.Module, pictures: Tensor, texts: Tensor) -> Tensor:
    """Vectors of length 1 are scaled so that their numbers are of size 1, and so are those of their product."""
    scale = pictures.shape[-1] ** 0.5
    found: Tensor = heads(torch.cat([scale * pictures, scale * texts, scale**2 * pictures * texts], dim=-1))
    return found
