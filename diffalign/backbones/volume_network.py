"""A transformer that predicts velocities on a dense cube: TRELLIS' first stage, and small ones like it.

Written from the published layout (microsoft/TRELLIS at 6b0d647, `SparseStructureFlowModel`): settings and the names of the
tensors are the same, so its files load as they are; the attention is plain torch.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = 256  # of the time's embedding
_LONGEST = 10_000.0  # period of both embeddings


class SparseStructureFlowModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Patches of a cube attend to each other and to the tokens of a condition; the time modulates every block.

    It has one precision throughout. (The published code keeps embeddings, the first and the last layer in float32 beside
    blocks in float16.)

    Args:
        resolution: cells along a side of the cube.
        in_channels, out_channels: of a cell.
        model_channels: width of a token.
        cond_channels: width of the condition's tokens.
        num_blocks, num_heads, mlp_ratio: of the transformer; with no `num_heads` there is one for `num_head_channels`.
        patch_size: cells along a side of a token.
        pe_mode: "ape", absolute positions (the published models have no other).
        share_mod: one modulation for all blocks, in the place of one in each.
        qk_rms_norm, qk_rms_norm_cross: whether queries and keys are normalised among patches and towards the condition.
        use_fp16, use_checkpoint: of the published files; precision and gradient checkpointing are set where it is loaded.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    @register_to_config
    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int | None = 64,
        mlp_ratio: int | float = 4,  # the published files have 4
        patch_size: int = 2,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ) -> None:
        super().__init__()
        if pe_mode != "ape":
            raise ValueError(f"pe_mode: must be 'ape', got {pe_mode!r}")
        self.gradient_checkpointing = False
        heads = num_heads or model_channels // (num_head_channels or 64)
        patch = in_channels * patch_size**3
        self.t_embedder = TimeEmbedding(model_channels)
        self.adaLN_modulation = modulation(model_channels) if share_mod else None
        self.pos_emb: Tensor
        self.register_buffer("pos_emb", position_embedding(resolution // patch_size, model_channels))
        self.input_layer = nn.Linear(patch, model_channels)
        self.blocks = nn.ModuleList(
            Block(model_channels, cond_channels, heads, float(mlp_ratio), share_mod, qk_rms_norm, qk_rms_norm_cross)
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(model_channels, out_channels * patch_size**3)
        self._initialise()

    def forward(
        self,
        x: Float[Tensor, "batch channels x y z"],
        t: Float[Tensor, " batch"],
        cond: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch channels x y z"]:
        """The velocity noise - x0.

        Args:
            x: x_t.
            t: a thousand times the process time.
            cond: the condition's tokens.
        """
        patch = self.config.patch_size
        dtype = self.pos_emb.dtype
        hidden = self.input_layer(to_patches(x.to(dtype), patch)) + self.pos_emb
        time, cond = self.t_embedder(t, dtype), cond.to(dtype)
        if self.adaLN_modulation is not None:
            time = self.adaLN_modulation(time)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(block, hidden, time, cond)
            else:
                hidden = block(hidden, time, cond)
        hidden = F.layer_norm(hidden, hidden.shape[-1:])
        return from_patches(self.out_layer(hidden), patch, x.shape[-3:]).to(x.dtype)

    def _initialise(self) -> None:
        """A new model predicts nothing, and its blocks change nothing: modulations and the last layer start from zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in self.t_embedder.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        parts: list[Any] = [self, *self.blocks]
        modulations = [each.adaLN_modulation for each in parts if each.adaLN_modulation is not None]
        for layer in (*(each[-1] for each in modulations), self.out_layer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class Block(nn.Module):
    """Attention among patches, attention to the condition, a perceptron; scaled, shifted and gated by the time."""

    def __init__(
        self,
        width: int,
        cond_width: int,
        heads: int,
        mlp_ratio: float,
        share_mod: bool,
        qk_rms_norm: bool,
        qk_rms_norm_cross: bool,
    ) -> None:
        super().__init__()
        self.norm1 = WideLayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = WideLayerNorm(width, eps=1e-6)
        self.norm3 = WideLayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.self_attn = SelfAttention(width, heads, qk_rms_norm)
        self.cross_attn = CrossAttention(width, cond_width, heads, qk_rms_norm_cross)
        self.mlp = Perceptron(width, int(width * mlp_ratio))
        self.adaLN_modulation = None if share_mod else modulation(width)

    def forward(self, hidden: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        told = time if self.adaLN_modulation is None else self.adaLN_modulation(time)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = told[:, None].chunk(6, dim=-1)
        hidden = hidden + gate * self.self_attn(self.norm1(hidden) * (1 + scale) + shift)
        hidden = hidden + self.cross_attn(self.norm2(hidden), cond)
        return hidden + mlp_gate * self.mlp(self.norm3(hidden) * (1 + mlp_scale) + mlp_shift)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, qk_rms_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.q_rms_norm = HeadNorm(width // heads, heads) if qk_rms_norm else nn.Identity()
        self.k_rms_norm = HeadNorm(width // heads, heads) if qk_rms_norm else nn.Identity()
        self.to_out = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.to_qkv(hidden).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.to_out(attend(self.q_rms_norm(query), self.k_rms_norm(key), value))


class CrossAttention(nn.Module):
    def __init__(self, width: int, cond_width: int, heads: int, qk_rms_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(cond_width, 2 * width)
        self.q_rms_norm = HeadNorm(width // heads, heads) if qk_rms_norm else nn.Identity()
        self.k_rms_norm = HeadNorm(width // heads, heads) if qk_rms_norm else nn.Identity()
        self.to_out = nn.Linear(width, width)

    def forward(self, hidden: Tensor, cond: Tensor) -> Tensor:
        query = self.to_q(hidden).unflatten(-1, (self.heads, -1))
        key, value = self.to_kv(cond).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.to_out(attend(self.q_rms_norm(query), self.k_rms_norm(key), value))


class HeadNorm(nn.Module):
    """RMS norm of each head's queries or keys [batch, tokens, heads, width], with a gain for each head and channel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gamma.float() * math.sqrt(x.shape[-1])
        return (F.normalize(x.float(), dim=-1) * gain).to(x.dtype)


class WideLayerNorm(nn.LayerNorm):
    """A layer norm that is computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if each is None else each.float() for each in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class TimeEmbedding(nn.Module):
    """Cosines and sines of a thousand times the process time, through a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " batch"], dtype: torch.dtype) -> Float[Tensor, "batch width"]:
        half = _FREQUENCIES // 2
        rates = torch.exp(-math.log(_LONGEST) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
        angles = t[:, None].float() * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


def modulation(width: int) -> nn.Sequential:
    """Of the time's embedding: shift, scale and gate of the attention, then of the perceptron."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[batch, tokens, heads, width] each; [batch, tokens, heads * width]."""
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def position_embedding(side: int, width: int) -> Float[Tensor, "tokens width"]:
    """Sines and cosines of each of the three coordinates; zeros where `width` is no multiple of six."""
    axes = torch.meshgrid(*[torch.arange(side, dtype=torch.float32)] * 3, indexing="ij")
    count = width // 3 // 2
    rates = _LONGEST ** -(torch.arange(count, dtype=torch.float32) / count)
    angles = torch.stack(axes, dim=-1).reshape(-1, 3, 1) * rates
    places = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(places, (0, width - places.shape[1]))


def to_patches(x: Float[Tensor, "batch channels x y z"], patch: int) -> Float[Tensor, "batch tokens width"]:
    """Small cubes become tokens, x slowest: channel by channel, then the cube's cells."""
    batch, channels, *sides = x.shape
    cut = [part for side in sides for part in (side // patch, patch)]
    return x.reshape(batch, channels, *cut).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def from_patches(
    tokens: Float[Tensor, "batch tokens width"], patch: int, sides: torch.Size
) -> Float[Tensor, "batch channels x y z"]:
    """The inverse of `to_patches`."""
    counts = [side // patch for side in sides]
    cubes = tokens.reshape(len(tokens), *counts, -1, patch, patch, patch)
    return cubes.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(tokens), -1, *sides)
