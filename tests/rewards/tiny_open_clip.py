"""A small CLIP written as open_clip writes it (model.py: its names, its order of operations), with random weights."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from tests.rewards.tiny_clip import SIDE, TOKENS, temporary_folder

PATCH, FEATURES, WORDS, END = 8, 16, 54, 53


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        inner = self.ln_1(x)
        x = x + self.attn(inner, inner, inner, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Vision(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, width))
        self.proj = nn.Parameter(torch.randn(width, FEATURES))
        self.conv1 = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Blocks(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """open_clip's class CLIP (model.py), its names and its order of operations."""

    def __init__(self, vision: int = 128, text: int = 64) -> None:
        super().__init__()
        self.visual = Vision(vision)
        self.transformer = Blocks(text, 3)
        self.token_embedding = nn.Embedding(WORDS, text)
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, text))
        self.ln_final = nn.LayerNorm(text)
        self.text_projection = nn.Parameter(torch.randn(text, FEATURES))
        self.logit_scale = nn.Parameter(torch.tensor(4.6052))
        self.register_buffer("attn_mask", torch.full((TOKENS, TOKENS), -torch.inf).triu(1))

    def encode_text(self, words: Tensor) -> Tensor:
        x = self.token_embedding(words) + self.positional_embedding
        x = self.ln_final(self.transformer(x, self.attn_mask))
        return x[torch.arange(len(x)), words.argmax(-1)] @ self.text_projection


def tiny_open_clip() -> OpenClip:
    torch.manual_seed(0)
    model = OpenClip().eval()
    for weight in model.parameters():  # biases and norms too, which start at 0 and 1
        weight.data += 0.1 * torch.randn_like(weight)
    return model


@cache
def open_clip_file() -> str:
    """As HPSv2's authors publish theirs."""
    file = temporary_folder() / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": tiny_open_clip().state_dict()}, file)
    return str(file)
