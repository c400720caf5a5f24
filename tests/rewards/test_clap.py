"""CLAP's score against transformers' own processor and forward; windows, prompts, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ClapModel, ClapProcessor

from diffalign.exceptions import ConfigError, ShapeError
from diffalign.rewards import Audio, Sample, load_reward
from diffalign.rewards.clap import window_starts
from tests.rewards.sounds import buzz, noise
from tests.rewards.tiny_clap import TOKENS, tiny_clap_folder

RATE = 48000
PROMPTS = ["a dog", "a bell rings", "wind"]


def sounds() -> list[np.ndarray]:
    """Of 10 s, of 10 s, and shorter."""
    return [buzz(RATE, 10.0), (0.1 * noise(10 * RATE)).clip(-1, 1), buzz(RATE, 3.3)]


def of_transformers(folder: str, waves: list[np.ndarray], prompts: list[str]) -> torch.Tensor:
    """What the library's own processor and forward make of the same folder, one sound at a time."""
    model, processor = ClapModel.from_pretrained(folder).eval(), ClapProcessor.from_pretrained(folder)
    found = []
    for wave, prompt in zip(waves, prompts, strict=True):
        inputs = processor(audio=wave, text=prompt, return_tensors="pt", sampling_rate=RATE)
        inputs["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)  # it says so of none but the one that it draws
        with torch.no_grad():
            output = model(**inputs)
        found.append((output.audio_embeds * output.text_embeds).sum())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("fused", "padding"), [(False, "repeatpad"), (True, "repeatpad"), (False, "repeat"), (False, "pad")]
)
def test_cosine_is_that_of_transformers(fused: bool, padding: str) -> None:
    folder = tiny_clap_folder(fused=fused, padding=padding)
    found = load_reward("clap", model=folder, device="cpu")([Audio(one, RATE) for one in sounds()], PROMPTS)
    torch.testing.assert_close(found, of_transformers(folder, sounds(), PROMPTS), rtol=0, atol=1e-5)
    assert len(set(found.tolist())) == 3


def test_spectra_are_those_of_transformers() -> None:
    folder = tiny_clap_folder()
    towers = load_reward("clap", model=folder, device="cpu").towers
    for wave in sounds()[1:]:
        theirs = ClapProcessor.from_pretrained(folder).feature_extractor(wave, sampling_rate=RATE, return_tensors="pt")
        torch.testing.assert_close(
            towers.columns(torch.from_numpy(wave)[None]), theirs["input_features"], rtol=0, atol=1e-4
        )


def test_longer_sound_is_the_mean_over_windows() -> None:
    reward = load_reward("clap", model=tiny_clap_folder(), device="cpu")
    wave = np.concatenate([buzz(RATE, 10.0), (0.1 * noise(5 * RATE)).clip(-1, 1)])
    output = reward.score([Sample(Audio(wave, RATE), "a dog")])
    parts = reward([Audio(wave[: 10 * RATE], RATE), Audio(wave[5 * RATE :], RATE)], ["a dog"] * 2)
    assert output.values.item() == pytest.approx(parts.mean().item(), abs=1e-6)
    assert output.components["windows"].item() == 2 and output.components["tokens_cut"].item() == 0
    assert window_starts(15, 10) == [0, 5] and window_starts(21, 10) == [0, 6, 11]
    assert window_starts(10, 10) == window_starts(1, 10) == [0]


def test_score_tensor_is_the_score_with_a_gradient() -> None:
    reward = load_reward("clap", model=tiny_clap_folder(), device="cpu")
    waves = torch.from_numpy(np.stack([buzz(16000, 2.0), (0.1 * noise(32000)).clip(-1, 1)])).requires_grad_()
    found = reward.score_tensor(waves, PROMPTS[:2], rate=16000)
    scored = reward([Audio(wave, 16000) for wave in waves.detach()], PROMPTS[:2])
    torch.testing.assert_close(found.detach(), scored, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), waves)
    assert gradient.isfinite().all() and (gradient.norm(dim=1) > 0).all()
    step = 2e-4 * gradient / gradient.norm()
    ahead, behind = (reward.score_tensor(waves + sign * step, PROMPTS[:2], rate=16000).sum() for sign in (1, -1))
    assert ((ahead - behind) / 4e-4).item() == pytest.approx(gradient.norm().item(), rel=0.1)
    with pytest.raises(ShapeError, match="one for each of 2 waveforms, got 1"):
        reward.score_tensor(waves, ["a dog"], rate=16000)


def test_prompts() -> None:
    reward = load_reward("clap", model=tiny_clap_folder(), device="cpu", batch=2)
    audio = Audio(buzz(16000, 1.0), 16000)
    long = "a" * (TOKENS + 5)
    output = reward.score([Sample(audio, "a dog"), Sample(audio, " "), Sample(audio, long), Sample(audio, "ünï")])
    assert output.reasons == (None, "it has no prompt, which clap needs", None, None)
    assert output.components["tokens_cut"][2] == 7  # begin and end are tokens too
    assert output.values.isnan().tolist() == [False, True, False, False]
    assert reward([audio], [long[: TOKENS - 2]]).item() == pytest.approx(output.values[2].item(), abs=1e-6)


def test_weights_are_part_of_the_version() -> None:
    one, other = (load_reward("clap", model=tiny_clap_folder(seed=seed), device="cpu").spec.version for seed in (0, 1))
    assert one != other and one.startswith("1-")
    with pytest.raises(ConfigError, match=r"clap.model: cannot load '/no/such': no such folder"):
        load_reward("clap", model="/no/such")
