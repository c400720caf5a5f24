"""What holds for every reward of sound: order, batch size, failures, range, and the table."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch

from diffalign.exceptions import MissingExtraError
from diffalign.rewards import REWARDS, Audio, Reward, Sample, fit_reference, load_encoder, load_reward, save_reference
from diffalign.rewards.onnx_models import onnx_session
from tests.rewards.sounds import buzz, noise, note
from tests.rewards.tiny_clap import tiny_clap_folder

NAMES = [name for name, entry in REWARDS.items() if entry.spec.media == "audio"]
LOOSE = {"clap": 1e-6}  # what the size of a batch may change: the order in which a network's sums are taken


def sounds() -> list[Audio]:
    return [
        Audio(note(69, 2.6, 22050), 22050),
        Audio(buzz(16000, 2.6), 16000),
        Audio(np.stack([note(67, 2.6, 16000), (0.1 * noise(41600)).clip(-1, 1)]), 16000),
    ]


@cache
def load(name: str) -> Reward:
    options = {"clap": {"model": tiny_clap_folder(), "device": "cpu"}}.get(name, {})
    if name == "fad_song":
        file, encoder = Path(mkdtemp(prefix="reference-")) / "set.safetensors", load_encoder("speaker")
        save_reference(file, fit_reference(sounds()[:2], encoder), encoder)
        options = {"reference": str(file), "encoder": "speaker"}
    return load_reward(name, **options)


def batch() -> list[Sample]:
    return [Sample(sound, prompt, id=prompt) for sound, prompt in zip(sounds(), ("A4", "C5", "G4"), strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_order_batch_size_failures_and_range(name: str, caplog: pytest.LogCaptureFixture) -> None:
    reward, samples = load(name), batch()
    whole = reward.score(samples)
    assert whole.reasons == (None,) * 3 and len(set(whole.values.tolist())) > 1
    low, high = reward.spec.range
    assert ((whole.values >= low) & (whole.values <= high)).all()

    broken = [Sample("a.wav", "A4", id="broken"), Sample(None, "A4")]
    mixed = reward.score([samples[2], broken[0], samples[0], broken[1]])
    tolerance = LOOSE.get(name, 0.0)
    torch.testing.assert_close(mixed.values[[2, 0]], whole.values[[0, 2]], rtol=0, atol=tolerance)
    for part, values in mixed.components.items():
        torch.testing.assert_close(values[[2, 0]], whole.components[part][[0, 2]], rtol=0, atol=tolerance)
        assert values[[1, 3]].isnan().all()
    assert mixed.values[[1, 3]].isnan().all()
    assert mixed.reasons[1] == "sound must be an Audio(waveform, rate), got str" and "broken" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch_and_spec(name: str) -> None:
    reward, entry = load(name), REWARDS[name]
    assert reward.score([]).values.shape == (0,)
    assert reward.spec.name == entry.params.model_fields["name"].default == name
    assert reward.spec.version.startswith("1") and hash(reward.spec) is not None
    if name in ("clap", "fad_song"):  # the version of a loaded one has its weights, or its reference
        assert replace(reward.spec, version=entry.spec.version) == entry.spec != reward.spec
    else:
        assert reward.spec == entry.spec


def test_a_missing_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"the notes reward needs 'onnxruntime'; .*diffalign\[audio\]"):
        onnx_session(Path("other.onnx"), "notes")
