"""A small ImageReward written as its authors write it (vit.py, med.py, ImageReward.py): names, order of operations."""

from __future__ import annotations

import math
import string
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertTokenizer

from tests.rewards.tiny_clip import SIDE, temporary_folder

PATCH, SEEN, READ, POSITIONS = 8, 192, 128, 40  # two widths, of 3 and of 2 heads
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *string.ascii_lowercase,
    *(f"##{each}" for each in string.ascii_lowercase),
]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    """Heads of 64; [batch, tokens, width]."""
    query, key, value = (each.unflatten(-1, (-1, 64)).transpose(1, 2) for each in (query, key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(64) + mask
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, SEEN, PATCH, PATCH)


class VisionAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(SEEN, 3 * SEEN), nn.Linear(SEEN, SEEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attention(*self.qkv(x).chunk(3, -1)))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(SEEN, 2 * SEEN), nn.Linear(2 * SEEN, SEEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(SEEN, eps=1e-6), nn.LayerNorm(SEEN, eps=1e-6)
        self.attn, self.mlp = VisionAttention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.randn(1, 1, SEEN))
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, SEEN))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(SEEN, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Output(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, READ), nn.LayerNorm(READ, eps=1e-12)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + before)


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(READ, READ), nn.Linear(width, READ), nn.Linear(width, READ)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self, self.output = SelfAttention(width), Output(READ)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | float) -> Tensor:
        inner = attention(self.self.query(x), self.self.key(other), self.self.value(other), mask)
        return self.output(inner, x)


class Intermediate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(READ, 3 * READ)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.crossattention = Attention(READ), Attention(SEEN)
        self.intermediate, self.output = Intermediate(), Output(3 * READ)

    def forward(self, x: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, x, mask)
        x = self.crossattention(x, picture, 0.0)  # mode "multimodal"
        return self.output(nn.functional.gelu(self.intermediate.dense(x)), x)


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(len(WORDS) + 2, READ)
        self.position_embeddings = nn.Embedding(POSITIONS, READ)
        self.LayerNorm = nn.LayerNorm(READ, eps=1e-12)
        self.register_buffer("position_ids", torch.arange(POSITIONS)[None])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(2))


class BertModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(), Encoder()

    def forward(self, words: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
        inner = self.embeddings
        x = inner.LayerNorm(inner.word_embeddings(words) + inner.position_embeddings.weight[: words.shape[1]])
        added = (1.0 - mask[:, None, None, :].float()) * -10000.0
        for layer in self.encoder.layer:
            x = layer(x, picture, added)
        return x


class Blip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual_encoder, self.text_encoder = VisionTransformer(), BertModel()
        self.vision_proj, self.text_proj = nn.Linear(SEEN, 16), nn.Linear(READ, 16)  # in the file, and of no use


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(READ, 32), nn.Dropout(0.2), nn.Linear(32, 16), nn.Dropout(0.2), nn.Linear(16, 8), nn.Dropout(0.1),
            nn.Linear(8, 4), nn.Linear(4, 1),
        )  # fmt: skip


class AuthorsImageReward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blip, self.mlp = Blip(), MLP()

    def forward(self, words: Tensor, mask: Tensor, pictures: Tensor) -> Tensor:
        picture = self.blip.visual_encoder(pictures)
        text = self.blip.text_encoder(words, mask, picture)
        return ((self.mlp.layers(text[:, 0]) - 0.16717362830052426) / 1.0333394966054072)[:, 0]


def tiny_tokenizer() -> Any:
    """Letters are its tokens; as bert-base-uncased it makes them small."""
    return BertTokenizer(vocab={word: row for row, word in enumerate(WORDS)}, do_lower_case=True)


@cache
def tiny_image_reward() -> AuthorsImageReward:
    generator = torch.Generator().manual_seed(0)
    model = AuthorsImageReward().eval()
    for name, weight in model.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        norm = name.rsplit(".", 2)[-2] in ("LayerNorm", "norm", "norm1", "norm2") and name.endswith("weight")
        weight.data = 1 + 0.1 * drawn if norm else drawn * (weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1)
    return model


@cache
def image_reward_file() -> str:
    """As the authors publish theirs."""
    file = temporary_folder() / "ImageReward.pt"
    torch.save(tiny_image_reward().state_dict(), file)
    return str(file)


@cache
def bert_folder() -> str:
    folder = temporary_folder()
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
