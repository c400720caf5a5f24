"""Text-image agreement with no CLIP: what ships, MiniLM's sentences, and the map by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from diffalign.rewards import Sample, TextImageReward, load_reward
from diffalign.rewards._minilm import load_minilm
from diffalign.rewards.text_image import MAP_FILE, TextImageMap, read_map
from makers.emoji_text_image import fit_map, retrieval
from tests.rewards.photo_like import photo_like


def test_sentences_are_near_by_meaning() -> None:
    """Cosines recorded with the same weights by transformers' BertModel on padded batches."""
    one, other, far = load_minilm()(["a kitten", "a cat", "a financial report"])
    assert (one @ other).item() == pytest.approx(0.7663, abs=1e-3)
    assert (one @ far).item() == pytest.approx(0.1236, abs=1e-3)
    assert one.norm().item() == pytest.approx(1) and load_minilm()([]).shape == (0, 384)


def test_what_ships_says_how_good_it_is() -> None:
    with safe_open(MAP_FILE, framework="numpy") as file:
        figures = json.loads(file.metadata()["figures"])
    assert MAP_FILE.stat().st_size < 2e6
    assert figures["first"] > 0.15 and figures["beats_another_name"] > 0.8  # of 200: chance is 0.005 and 0.5
    assert read_map().weights.shape == (1792, 384)


def test_the_map_by_hand() -> None:
    table = TextImageMap(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]), torch.eye(2), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(table.pictures(torch.tensor([[7.0, 4.0]])), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(table.texts(torch.tensor([[0.5, 2.0]])), torch.tensor([[0.0, 1.0]]))


def test_a_linear_world_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(80, 12, generator=draw, dtype=torch.float64)
    vectors = F.normalize(features @ torch.randn(12, 5, generator=draw, dtype=torch.float64) + 3, dim=-1)
    figures = retrieval(fit_map(features[:60], vectors[:60]), features[60:], vectors[60:])
    assert figures["first"] > 0.5 and figures["own_name"] > 0.8 > abs(figures["other_names"])


def test_score_is_the_cosine_and_has_gradients() -> None:
    reward, picture = load_reward("text_image", device="cpu"), photo_like(64, 64)
    value = reward([picture], ["a banana"]).item()
    (row,) = TextImageReward(device="cpu").encoder.encode([picture])
    assert isinstance(row, torch.Tensor)
    expected = read_map().pictures(row.float()[None]) @ read_map().texts(load_minilm()(["a banana"])).T
    assert value == pytest.approx(expected.item(), abs=1e-5)
    pictures = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255).requires_grad_()
    score = TextImageReward(device="cpu").score_tensor(pictures, ["a banana"])
    (step,) = torch.autograd.grad(score.sum(), pictures)
    with torch.no_grad():  # a step along the gradient agrees more
        better = TextImageReward(device="cpu").score_tensor(pictures + 0.02 * step / step.abs().max(), ["a banana"])
    assert better > score


def test_a_sample_without_a_prompt_is_not_scored() -> None:
    output = TextImageReward(device="cpu").score([Sample(np.zeros((8, 8, 3), np.uint8), " ")])
    assert output.values.isnan().all() and output.reasons == ("it has no prompt, which text_image needs",)
