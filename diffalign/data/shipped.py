"""Preference sets that ship as latents: written by the model that drew the pictures, readable by it alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffalign.data.cache import content_key
from diffalign.data.said import Said
from diffalign.exceptions import DataError


class ShippedLatents:
    """Latents [groups, members, *sample] of a .safetensors file, drawn by one model and readable by it alone.

    Attributes:
        records: id and prompt of every group or pair.
        ties: pairs that were left out because their rewards are equal.
        buckets: None: all latents are of one size.
    """

    buckets = None

    def __init__(
        self,
        path: Path,
        autoencoder: str,
        kind: Literal["pairs", "groups"] = "groups",
        *,
        pairs_per_group: int | None = None,
    ) -> None:
        """Read the file whole.

        Args:
            autoencoder: identity of the model's, as the backbone gives it.
            kind: `groups` takes the file's groups as they are; `pairs` makes two members a pair, the best with the worst,
                the second best with the second worst and so on, where their rewards differ.
            pairs_per_group: of pairs, how many at most of a group, the widest apart first; None: all of these.

        Raises:
            DataError: missing, damaged, or made with another autoencoder.
        """
        self.ties = 0
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                self._latents = file.get_tensor("latents")
                self._rewards = file.get_tensor("rewards")
                numbers = file.get_tensor("prompt").tolist()
                prompts: list[str] = json.loads(about["prompts"])
                self._check_shapes(path, len(numbers))
                names = [(f"group-{number}", prompts[index]) for number, index in enumerate(numbers)]
                self.records = self._paired(names, pairs_per_group) if kind == "pairs" else names
        except DataError:
            raise
        except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
            raise DataError(f"{path}: not a readable preference set ({error})") from None
        if about.get("autoencoder") != autoencoder:
            raise DataError(
                f"{path}: these latents were made with another autoencoder than model.path has "
                f"(made with {about.get('autoencoder')}, have {autoencoder}); use the model that they ship with"
            )
        if not self.records:
            why = "no two members of a group differ in reward" if numbers else "the file is empty"
            raise DataError(f"{path}: no usable {kind}: {why}")

    def _check_shapes(self, path: Path, prompts: int) -> None:
        latents, rewards = tuple(self._latents.shape), tuple(self._rewards.shape)
        if len(latents) < 3 or rewards != latents[:2] or prompts != latents[0]:
            raise DataError(
                f"{path}: latents must be [groups, members, ...], rewards [groups, members] and prompt [groups], got "
                f"{latents}, {rewards} and ({prompts},)"
            )
        # a NaN among the rewards is one that was not scored
        for name, bad in (("latents", ~torch.isfinite(self._latents)), ("rewards", self._rewards.isinf())):
            groups = bad.flatten(1).any(1).nonzero().flatten().tolist()
            if groups:
                shown = ", ".join(map(str, groups[:8])) + (", ..." if len(groups) > 8 else "")
                raise DataError(f"{path}: {name} of group {shown} are not finite; leave these groups out")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one latent."""
        return tuple(self._latents.shape[2:])

    def _paired(self, names: list[tuple[str, str]], most: int | None) -> list[tuple[str, str]]:
        """Put pairs in the place of the groups; their records' names and prompts."""
        members = self._rewards.shape[1]
        half = min(members // 2, most or members)
        better, worse = torch.arange(half), members - 1 - torch.arange(half)
        pairs = torch.stack([self._latents[:, better], self._latents[:, worse]], dim=2)  # (group, pair, 2, *sample)
        rewards = torch.stack([self._rewards[:, better], self._rewards[:, worse]], dim=2)
        apart = rewards[..., 0] > rewards[..., 1]
        self.ties = int((~apart).sum())
        self._latents, self._rewards = pairs[apart], rewards[apart]
        return [(f"{names[group][0]}-{pair}", names[group][1]) for group, pair in apart.nonzero().tolist()]

    @property
    def content_hash(self) -> str:
        tensors = (self._latents, self._rewards)
        return content_key(*(tensor.flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors))

    def of(self, number: int, epoch: int, name: str) -> Tensor:
        return self._latents[number].float()

    def crops(self, number: int, epoch: int, name: str) -> Tensor | None:
        return None

    def masks(self, number: int, epoch: int, name: str) -> Tensor | None:
        return None

    def reward(self, number: int) -> Tensor | None:
        return self._rewards[number].float()

    def preference(self, number: int) -> float:
        return 1.0

    def label(self, number: int) -> int | None:
        return None

    def said(self) -> Iterator[Said]:
        yield Said(0, self._rewards.float(), None, torch.ones(len(self._rewards)))


def prompts_of(path: Path) -> list[str]:
    """The captions of a preference set, in its order.

    Raises:
        DataError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            prompts: list[str] = json.loads((file.metadata() or {})["prompts"])
            return [prompts[index] for index in file.get_tensor("prompt").tolist()]
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a readable preference set ({error})") from None


def save_latents(
    path: Path, latents: Tensor, rewards: Tensor, prompts: Sequence[str], numbers: Sequence[int], about: dict[str, Any]
) -> None:
    """Write a preference set as `ShippedLatents` reads it.

    Args:
        path: a .safetensors file.
        latents: x0 [groups, members, *sample], best member first; kept in half precision.
        rewards: [groups, members].
        prompts, numbers: the captions, and which of them each group is of.
        about: facts for the file's header, kept as text. `autoencoder` must be among them, as
            `Backbone.autoencoder_identity` gives it; readers pass over the others.
    """
    save_file(
        {
            "latents": latents.to(torch.float16).contiguous(),
            "rewards": rewards.to(torch.float32).contiguous(),
            "prompt": torch.tensor(numbers, dtype=torch.int32),
        },
        path,
        metadata={"prompts": json.dumps(list(prompts)), **{key: str(value) for key, value in about.items()}},
    )
