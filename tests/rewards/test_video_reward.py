"""VideoReward against a small one that is trained and saved as its authors do, with their forward."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.rewards import REWARDS, Sample, Video, VideoReward, build_reward, load_reward
from tests.rewards.tiny_video_reward import (
    MEAN,
    STD,
    TEMPLATE,
    TOKENS,
    base_folder,
    config,
    folder,
    save,
    trained,
    videos,
)

PROMPTS = ["a red cat jumps", "blue", "the fox jumps and jumps"]


def loaded(outputs: int = 1, full: bool = True, **options) -> VideoReward:
    return load_reward("video_reward", model=folder(outputs, full), **options)


def of_authors(reward: VideoReward, outputs: int) -> torch.Tensor:
    """Their forward, on what the reward sees and asks, one video at a time; then their scale."""
    rows = []
    for video, prompt in zip(videos(), PROMPTS, strict=True):
        patches, grid = reward.seen(video)
        text = reward.asked(prompt, grid[0] * grid[1] * grid[2] // 4)
        rows.append(trained(outputs).logits(text, patches, grid))
    return (torch.stack(rows) - torch.tensor(list(MEAN.values()))) / torch.tensor(list(STD.values()))


@pytest.mark.parametrize(
    ("outputs", "full"), [(1, True), (1, False), (3, True)], ids=["published", "lora", "three rows"]
)
def test_scores_are_the_authors(outputs, full):
    reward = loaded(outputs, full)
    output = reward.score([Sample(video, prompt) for video, prompt in zip(videos(), PROMPTS, strict=True)])
    expected = of_authors(reward, outputs)
    found = torch.stack([output.components[part] for part in ("VQ", "MQ", "TA")], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.values, expected.sum(1), rtol=1e-4, atol=1e-4)
    assert expected.std(dim=0).min() > 1e-3 and (expected[0].max() - expected[0].min()) > 0.05


def test_order_and_batch_size_do_not_matter():
    samples = [Sample(video, prompt) for video, prompt in zip(videos(), PROMPTS, strict=True)]
    single = loaded().score(samples).values
    torch.testing.assert_close(loaded(batch=3).score(samples).values, single, rtol=0, atol=1e-4)
    mixed = loaded(batch=2).score([samples[place] for place in (2, 0, 1)]).values
    torch.testing.assert_close(mixed, single[[2, 0, 1]], rtol=0, atol=1e-4)


def test_quality_and_motion_are_read_before_the_prompt():
    reward, video = loaded(), videos()[0]
    one, other = (reward.score([Sample(video, prompt)]).components for prompt in ("a red cat", "the blue fox"))
    for part in ("VQ", "MQ"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=1e-5)
    assert (one["TA"] - other["TA"]).abs() > 1e-3


def test_what_is_asked_is_the_authors_text():
    """The hash is that of DETAILED_PROMPT_WITH_SPECIAL_TOKEN in their repository, commit 219ab9d."""
    assert hashlib.sha256(TEMPLATE.encode()).hexdigest() == (
        "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700"
    )
    text = loaded().asked("a {red} cat", 2)
    begin = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    assert text.startswith(f"{begin}<|vision_start|><|video_pad|><|video_pad|><|vision_end|>\nYou are tasked with")
    assert text.endswith("Alignment: <|TA_reward|>\nEND\n<|im_end|>\n<|im_start|>assistant\n")
    assert "\nTextual prompt - a {red} cat\nPlease" in text
    assert [text.count(token) for token in TOKENS] == [1, 1, 1]
    assert text.index(TOKENS[0]) < text.index(TOKENS[1]) < text.index("a {red} cat") < text.index(TOKENS[2])


def test_what_cannot_be_scored_spares_the_rest():
    video = videos()[0]
    batch = [
        Sample(video, "a cat"),
        Sample(Video(video.frames[:1], 8.0), "a cat"),
        Sample(video, " "),
        Sample(video, "a <|TA_reward|>"),
        Sample(Video(np.zeros((4, 1, 300, 3), dtype=np.uint8), 8.0), "a cat"),
        Sample(video.frames, "a cat"),
        Sample(videos()[1], "a cat"),
    ]
    output = loaded(batch=4).score(batch)
    assert output.reasons == (
        None,
        "a video must have 2 frames or more to be scored, got 1",
        "it has no prompt, which video_reward needs",
        "its prompt holds <|TA_reward|>, which is the model's own",
        "a frame's sides may differ 200 times, got 1 x 300",
        "a video must be a Video(frames, fps), got ndarray",
        None,
    )
    alone = loaded().score([batch[0], batch[-1]]).values
    torch.testing.assert_close(output.values[[0, 6]], alone, rtol=0, atol=1e-4)
    assert output.components["VQ"].isnan().tolist() == output.values.isnan().tolist()
    assert loaded().score([]).values.shape == (0,)


def test_settings_reach_the_reward_and_its_version():
    reward = loaded()
    assert reward.spec.version.startswith("1-2fps-200704px-") and REWARDS["video_reward"].spec.version == "1"
    assert reward.spec.media == "video" and not reward.spec.differentiable
    assert len(reward.seen(videos()[2])[0]) == 6 // 2 * 24 * 24  # 3 seconds; 50 x 50 is enlarged to 336 x 336
    other = loaded(fps=4.0, max_pixels=60000)
    assert other.seen(videos()[2])[1] == (6, 24, 24)
    assert other.spec.version.startswith("1-4fps-60000px-") and other.spec.version[-12:] == reward.spec.version[-12:]
    assert build_reward(REWARDS["video_reward"].params(model=folder())).spec == reward.spec


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frequencies_of_positions_are_rounded_as_in_training(precision):
    """1e6 to the power of -1/16 is 0.421697, in bfloat16 0.421875; of the vision tower, 1e4 to the power of -1/4 is 0.1."""
    model = loaded(precision=precision).model
    words, patches = model.language_model.rotary_emb.inv_freq, model.visual.rotary_pos_emb.inv_freq
    assert words.dtype == patches.dtype == torch.float32
    assert words[:2].tolist() == [1.0, 0.421875] and patches[1].item() == 0.10009765625


def test_half_precision_is_near_and_says_so():
    half, whole = loaded(precision="bf16"), loaded()
    assert half.model.dtype == torch.bfloat16 and "px-bf16-" in half.spec.version
    apart = (half(videos(), PROMPTS) - whole(videos(), PROMPTS)).abs()
    assert 0 < apart.mean() < 0.6  # rounding, and not another model


def test_without_constants_the_numbers_are_raw(tmp_path):
    told = config()
    del told["inference_config"]
    raw = load_reward("video_reward", model=save(tmp_path / "raw", told=told))
    parts = loaded().score([Sample(videos()[0], "a cat")]).components
    for part, values in raw.score([Sample(videos()[0], "a cat")]).components.items():
        torch.testing.assert_close(values, parts[part] * STD[part] + MEAN[part], rtol=0, atol=1e-4)
    assert raw.spec.version != loaded().spec.version


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("data_config", "num_frames", 8, r"data_config.num_frames must be None, got 8"),
        (
            "data_config",
            "prompt_template_type",
            "simple",
            r"prompt_template_type must be 'detailed_special', got 'simple'",
        ),
        ("model_config", "use_special_tokens", False, r"use_special_tokens must be True, got False"),
        ("peft_lora_config", "lora_r", 8, r"LoRA of '.*q_proj' does not fit, at rank 8|LoRA of .* at rank 8"),
        ("data_config", "fps", "fast", r"model_config.json' is not as VideoReward's authors write it: ValueError"),
        (
            "model_config",
            "model_name_or_path",
            "/nowhere",
            r"video_reward.base: cannot load '/nowhere': no such folder",
        ),
    ],
)
def test_models_that_are_read_in_another_way_are_refused(where, key, value, message, tmp_path):
    told = config()
    told[where][key] = value
    with pytest.raises(ConfigError, match=message):
        load_reward("video_reward", model=save(tmp_path / "other", told=told))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(
        ConfigError, match=r"video_reward.model: cannot load '/nowhere': no such folder. Give a folder as"
    ):
        load_reward("video_reward", model="/nowhere")
    with pytest.raises(ConfigError, match=r"video_reward.model: cannot read '.*model_config.json': No such file"):
        load_reward("video_reward", model=str(tmp_path))
    (tmp_path / "model_config.json").write_text(json.dumps(config()))
    with pytest.raises(ConfigError, match=r"video_reward.model: no checkpoint-N in"):
        load_reward("video_reward", model=str(tmp_path))
    (tmp_path / "checkpoint-1").mkdir()
    state = trained().state()
    lacking = {name: tensor for name, tensor in state.items() if "rm_head" not in name}
    torch.save(lacking, tmp_path / "checkpoint-1" / "model.pth")
    with pytest.raises(ConfigError, match=r"video_reward.model: no head in the checkpoint"):
        load_reward("video_reward", model=str(tmp_path))
    odd = state | {"base_model.model.model.more.weight": torch.zeros(2)}
    torch.save(odd, tmp_path / "checkpoint-1" / "model.pth")
    with pytest.raises(ConfigError, match=rf"on '{base_folder()}': 'language_model.more.weight' and 0 more do not fit"):
        load_reward("video_reward", model=str(tmp_path))
