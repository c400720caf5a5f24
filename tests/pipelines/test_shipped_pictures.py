"""Pictures of a set that ships as latents: decoded once, and no more of them than are asked for."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from diffalign.backbones import load_backbone
from diffalign.data import save_latents
from diffalign.pipelines import shipped_pictures
from diffalign.pipelines.shipped_pictures import shipped_comparisons

MODEL = ("sd", "zoo://shapes-sd")


@pytest.fixture
def read(tmp_path):
    """Three groups of two, of two prompts."""
    backbone = load_backbone(*MODEL)
    latents = torch.randn(3, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor([[1.0, 0.0]] * 3)
    about = {"autoencoder": backbone.autoencoder_identity()}
    save_latents(tmp_path / "set.safetensors", latents, rewards, ["a", "b"], [0, 1, 0], about)
    return partial(shipped_comparisons, tmp_path / "set.safetensors", *MODEL, "groups")


def test_only_what_is_wanted_is_decoded_and_what_is_kept_is_not_again(read, tmp_path, monkeypatch):
    seen = []
    some = read(wanted=lambda prompt: prompt == "a", cache=tmp_path, progress=lambda *at: seen.append(at))
    assert [each.prompt for each in some] == ["a", "a"] and seen == [(4, 4)]
    assert not list(tmp_path.glob("pictures-*"))  # a part is not kept
    every = read(cache=tmp_path)
    assert len(list(tmp_path.glob("pictures-*"))) == 1
    np.testing.assert_array_equal(every[2].pictures[1], some[1].pictures[1])
    monkeypatch.setattr(shipped_pictures, "_decoded", None)  # nothing is decoded from here on
    again = read(wanted=lambda prompt: prompt == "b", cache=tmp_path)
    assert [each.id for each in again] == ["group-1"]
    np.testing.assert_array_equal(again[0].pictures, every[1].pictures)
    assert [each.id for each in read(limit=2, cache=tmp_path)] == ["group-0", "group-1"]
    assert read(wanted=lambda prompt: False, cache=tmp_path) == []
