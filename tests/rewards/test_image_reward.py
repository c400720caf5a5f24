"""ImageReward against a small one that is written, and saved, as its authors do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffalign.exceptions import ConfigError
from diffalign.rewards import Sample, load_reward
from diffalign.rewards.blip_weights import blip_of_authors
from diffalign.rewards.image_reward import ImageReward
from diffalign.rewards.squares import normalised, square
from tests.rewards.test_clip import pictures
from tests.rewards.tiny_blip import (
    AuthorsImageReward,
    bert_folder,
    image_reward_file,
    tiny_image_reward,
    tiny_tokenizer,
)
from tests.rewards.tiny_clip import SIDE

PROMPTS = ["a red cat", "blue", "A Picture Of Ten Words Or So With More Letters Than Fit", "fox"]


def loaded(**options) -> ImageReward:
    return load_reward("image_reward", weights=image_reward_file(), tokenizer=bert_folder(), **options)


def of_authors(images, prompts) -> torch.Tensor:
    """Their preprocessing and their forward; the tokens by hand."""
    inputs = [
        torch.from_numpy(square(np.asarray(each), SIDE, "centre").copy()).permute(2, 0, 1) / 255 for each in images
    ]
    told = tiny_tokenizer()(list(prompts), padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    with torch.no_grad():
        return tiny_image_reward()(told["input_ids"], told["attention_mask"], normalised(torch.stack(inputs)))


def test_scores_are_the_authors():
    values = loaded()(pictures(), PROMPTS)
    expected = of_authors(pictures(), PROMPTS)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05  # the numbers depend on what is shown and asked
    assert (of_authors(pictures(), PROMPTS[::-1]) - expected).abs().min() > 1e-3


def test_tokens_are_begin_letters_end_and_filling():
    told = tiny_tokenizer()("Ab c", padding="max_length", truncation=True, max_length=8)
    assert told["input_ids"] == [2, 5, 32, 7, 3, 0, 0, 0] and told["attention_mask"] == [1, 1, 1, 1, 1, 0, 0, 0]
    reward = loaded()
    output = reward.score([Sample(pictures()[0], text) for text in ("a" * 33, "a" * 33 + "bcd", "a" * 33 + "xyz")])
    assert output.components["tokens_cut"].tolist() == [0, 3, 3]
    torch.testing.assert_close(output.values[1], output.values[2])


def test_the_head_is_five_layers_and_the_authors_scale():
    """Their formula on a known vector: nothing between the layers, then less 0.1672, over 1.0333."""
    head = blip_of_authors(tiny_image_reward().state_dict()).head
    vector = torch.linspace(-1, 1, 128)
    expected = vector.double()
    for number in (0, 2, 4, 6, 7):
        layer = tiny_image_reward().mlp.layers[number]
        expected = layer.weight.double() @ expected + layer.bias.double()
    assert len(head) == 5
    torch.testing.assert_close(head(vector).double(), expected, rtol=1e-5, atol=1e-6)
    reward = loaded()
    for layer in reward.blip.head:
        layer.weight.zero_(), layer.bias.zero_()
    assert reward(pictures()[:1], ["fox"]).item() == pytest.approx(-0.16178, abs=1e-5)
    reward.blip.head[-1].bias.fill_(1.2)
    assert reward(pictures()[:1], ["fox"]).item() == pytest.approx(0.99951, abs=1e-5)


def test_a_missing_prompt_and_a_bad_picture_spare_the_rest():
    samples = [Sample(picture, prompt) for picture, prompt in zip(pictures(), PROMPTS, strict=True)]
    output = loaded(batch=2).score([samples[0], Sample(None, "fox"), Sample(samples[1].media, " "), *samples[1:]])
    assert output.reasons[2] == "it has no prompt, which image_reward needs" and "got NoneType" in output.reasons[1]
    kept = torch.cat([output.values[:1], output.values[3:]])
    torch.testing.assert_close(kept, loaded().score(samples).values, rtol=0, atol=1e-5)


def test_scores_of_tensors_agree_and_carry_gradients():
    reward = loaded()
    for picture, close in zip(pictures()[:3], (1e-5, 0.02, 0.02), strict=True):
        tensor = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
        value = reward.score_tensor(tensor.requires_grad_(), ["a fox"])
        torch.testing.assert_close(value.detach(), reward([picture], ["a fox"]), rtol=0, atol=close)
        value.sum().backward()
        step = 1e-2 * tensor.grad / tensor.grad.norm()
        with torch.no_grad():
            ahead, behind = (reward.score_tensor(tensor + sign * step, ["a fox"]).item() for sign in (1, -1))
        assert (ahead - behind) / 2e-2 == pytest.approx(tensor.grad.norm().item(), rel=0.05)


def test_a_rest_of_three_pixels_is_halved_as_torchvision_does():
    """round(3 / 2) = 2, where transformers' CLIP cuts at 1."""
    ramp = np.tile(np.arange(35, dtype=np.uint8)[None, :, None], (32, 1, 3))
    assert (square(ramp, 32, "centre")[0, :, 0] == np.arange(2, 34)).all()
    assert (square(ramp, 32, "crop")[0, :, 0] == np.arange(1, 33)).all()


def test_files_in_a_folder_and_other_forms(tmp_path):
    state = {name: tensor.contiguous() for name, tensor in tiny_image_reward().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    reward = load_reward("image_reward", weights=str(tmp_path), tokenizer=bert_folder())
    assert reward.spec == loaded().spec and math.isinf(reward.spec.range[1])
    changed = state | {"mlp.layers.7.bias": torch.ones(1)}
    save_file(changed, tmp_path / "model.safetensors")
    other = load_reward("image_reward", weights=str(tmp_path), tokenizer=bert_folder())
    assert other.spec.version != reward.spec.version


def test_messages_of_weights_that_do_not_fit(tmp_path):
    state = AuthorsImageReward().state_dict()
    with pytest.raises(ConfigError, match=r"image_reward.weights: no ImageReward.pt and no .safetensors file in"):
        load_reward("image_reward", weights=str(tmp_path), tokenizer=bert_folder())
    with pytest.raises(ConfigError, match=r"weights: not those of ImageReward: 'blip.visual_encoder.patch_embed"):
        blip_of_authors({"weight": torch.zeros(2)})
    lacking = {name: tensor for name, tensor in state.items() if name != "blip.visual_encoder.blocks.1.attn.qkv.bias"}
    with pytest.raises(
        ConfigError, match=r"nothing under .* is what transformers calls 'encoder.layers.1.self_attn.qkv.bias'"
    ):
        blip_of_authors(lacking)
    wrong = state | {"blip.text_encoder.embeddings.LayerNorm.bias": torch.zeros(3)}
    with pytest.raises(ConfigError, match=r"'embeddings.LayerNorm.bias' has the shape \[3\], not \[128\]"):
        blip_of_authors(wrong)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["more"])
    with pytest.raises(ConfigError, match=r"it knows 60 words with \[DEC\] and \[ENC\], and the model 59"):
        ImageReward(blip_of_authors(state), tokenizer)
