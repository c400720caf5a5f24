"""CLIP score, PickScore and the aesthetic reward against transformers' own preprocessing and the authors' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel

from diffalign.exceptions import ConfigError
from diffalign.rewards import Sample, load_reward
from diffalign.rewards.aesthetic import read_head
from diffalign.rewards.squares import square
from tests.rewards.tiny_clip import SIDE, TOKENS, tiny_clip, tiny_folder, tiny_tokenizer

PROMPTS = ["a red cat", "blue", "ten words", "a fox"]
SIZES = [(32, 32), (40, 57), (91, 33), (20, 64)]


def pictures() -> list[Image.Image]:
    """Of several sizes, smooth enough that the way of scaling does not decide."""
    drawn = []
    for seed, (height, width) in enumerate(SIZES):
        noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        drawn.append(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return drawn


def cosines_of_transformers() -> torch.Tensor:
    """What the library's own processor, tokenizer and forward make of the same folder."""
    model = CLIPModel.from_pretrained(tiny_folder())
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    words = tiny_tokenizer()(PROMPTS, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    inputs = processor(images=pictures(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixel_values=inputs, **words).logits_per_image
    return logits.diag() / model.logit_scale.exp()


def test_cosine_is_that_of_transformers():
    torch.testing.assert_close(load_reward("clip", model=tiny_folder())(pictures(), PROMPTS), cosines_of_transformers())


@pytest.mark.parametrize(("seed", "sign"), [(0, -1), (1, 1)])
def test_clipscore_reads_its_own_sentence_and_is_cut_at_zero(seed, sign):
    plain, metric = (load_reward("clip", model=tiny_folder(seed=seed), form=form) for form in ("cosine", "clipscore"))
    told = plain(pictures(), [f"A photo depicts {prompt}" for prompt in PROMPTS])
    assert (sign * told > 0).all()
    torch.testing.assert_close(metric(pictures(), PROMPTS), 2.5 * told.clamp(min=0))


def test_pickscore_is_the_cosine_times_the_scale():
    reward = load_reward("pickscore", model=tiny_folder(), tokenizer=tiny_folder())
    scale = tiny_clip().logit_scale.exp().item()
    torch.testing.assert_close(reward(pictures(), PROMPTS), scale * cosines_of_transformers(), rtol=1e-5, atol=1e-4)
    assert reward.spec.range == pytest.approx((-scale, scale))


def test_order_and_batch_size_do_not_matter():
    samples = [Sample(picture, prompt) for picture, prompt in zip(pictures(), PROMPTS, strict=True)]
    whole, single = (load_reward("clip", model=tiny_folder(), batch=size).score(samples).values for size in (16, 1))
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-6)
    mixed = load_reward("clip", model=tiny_folder(), batch=3).score([samples[place] for place in (2, 0, 3, 1)])
    torch.testing.assert_close(mixed.values, whole[[2, 0, 3, 1]], rtol=0, atol=1e-6)


def test_a_sample_that_cannot_be_scored_spares_the_rest():
    samples = [Sample(picture, prompt) for picture, prompt in zip(pictures(), PROMPTS, strict=True)]
    reward = load_reward("clip", model=tiny_folder(), batch=2)
    output = reward.score([samples[0], Sample(None, "a fox"), Sample(samples[1].media, " "), *samples[1:]])
    assert output.reasons[:3] == (None, output.reasons[1], "it has no prompt, which clip needs")
    assert "got NoneType" in output.reasons[1]
    kept = torch.cat([output.values[:1], output.values[3:]])
    torch.testing.assert_close(kept, reward.score(samples).values, rtol=0, atol=1e-6)
    assert output.components["cosine"].isnan().tolist() == output.values.isnan().tolist()


def test_what_the_model_does_not_read_is_counted():
    reward = load_reward("clip", model=tiny_folder())
    picture, room = pictures()[0], TOKENS - 2  # begin and end are tokens too
    output = reward.score([Sample(picture, "a" * room), Sample(picture, "a" * room + "bcd")])
    assert output.components["tokens_cut"].tolist() == [0, 3]
    same = reward.score([Sample(picture, "a" * room + "xyz")]).values
    torch.testing.assert_close(same, output.values[1:], rtol=0, atol=1e-6)


def test_scores_of_tensors_agree_and_carry_gradients():
    """At the model's own size nothing is scaled; otherwise Pillow's rounding is all that differs."""
    for name, options in (("clip", {}), ("pickscore", {"tokenizer": tiny_folder()})):
        reward = load_reward(name, model=tiny_folder(), **options)
        for picture, close in zip(pictures()[:3], (1e-5, 5e-3, 5e-3), strict=True):
            tensor = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
            value = reward.score_tensor(tensor.requires_grad_(), ["a fox"])
            close *= reward.spec.range[1]
            torch.testing.assert_close(value.detach(), reward([picture], ["a fox"]), rtol=0, atol=close)
            value.sum().backward()
            step = 1e-3 * tensor.grad / tensor.grad.norm()
            with torch.no_grad():
                ahead, behind = (reward.score_tensor(tensor + sign * step, ["a fox"]).item() for sign in (1, -1))
            assert (ahead - behind) / 2e-3 == pytest.approx(tensor.grad.norm().item(), rel=0.05)


def test_the_version_tells_weights_apart():
    one, same, other = (load_reward("clip", model=tiny_folder(seed=seed)).spec.version for seed in (0, 0, 1))
    assert one == same != other


def test_a_padded_square_keeps_the_whole_picture():
    white = np.full((20, 40, 3), 255, dtype=np.uint8)
    padded = square(white, SIDE, "pad")
    assert padded.shape == (SIDE, SIDE, 3)
    assert (padded[8:24] == 255).all() and (padded[:8] == 0).all() and (padded[24:] == 0).all()
    assert (square(white, SIDE, "crop") == 255).all()
    even = np.asarray(pictures()[0].resize((64, 64)))
    assert (square(even, SIDE, "pad") == square(even, SIDE, "crop")).all()
    assert square(white[:1], SIDE, "pad").shape == square(white[:1], SIDE, "crop").shape == (SIDE, SIDE, 3)


def test_the_aesthetic_head_is_the_recorded_one():
    """Numbers of the authors' five layers on the same vectors."""
    weight, bias = read_head()
    vectors = F.normalize(torch.randn(4, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(
        vectors @ weight + bias, torch.tensor([5.5426, 5.3651, 4.9447, 4.6407]), rtol=0, atol=1e-4
    )
    assert weight.norm().item() == pytest.approx(17.9956, abs=1e-4) and bias == pytest.approx(5.2366, abs=1e-4)


def test_the_aesthetic_reward_is_the_head_on_the_vector_of_length_one():
    reward = load_reward("aesthetic", model=tiny_folder(features=768))
    weight, bias = read_head()
    model = CLIPModel.from_pretrained(tiny_folder(features=768))
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    with torch.no_grad():
        found = model.get_image_features(**processor(images=pictures(), return_tensors="pt"))
    vectors = F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)
    torch.testing.assert_close(reward(pictures()), vectors @ weight + bias)
    low, high = reward.spec.range
    assert low == pytest.approx(bias - weight.norm().item(), abs=1e-3) and math.isclose(
        high, bias + 17.9956, abs_tol=1e-3
    )


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is")
def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match=r"device: 'mps' is not to be had here; leave it out, or take \w+"):
        load_reward("clip", model=tiny_folder(), device="mps")


def test_messages_of_weights_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"aesthetic.model: its vectors have 16 numbers; .* ViT-L/14's 768"):
        load_reward("aesthetic", model=tiny_folder())
    with pytest.raises(ConfigError, match=rf"clip.model: cannot load '{tmp_path}': .*\. Give a folder"):
        load_reward("clip", model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"clip.model: cannot load '/nowhere': no such folder. Give a folder"):
        load_reward("clip", model="/nowhere")
    with pytest.raises(ConfigError, match=rf"pickscore.tokenizer: cannot load '{tmp_path}'"):
        load_reward("pickscore", model=tiny_folder(), tokenizer=str(tmp_path))
