"""Encoders of sound: the features of the packages whose networks these are, frames, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffalign.exceptions import MissingExtraError
from diffalign.rewards import (
    AisfxEncoder,
    Audio,
    ClapEncoder,
    ClapTowers,
    FrameEncoder,
    SpeakerEncoder,
    load_clap,
    load_encoder,
    load_reward,
)
from diffalign.rewards.aisfx import log_spectrum
from diffalign.rewards.encoders import frames_of
from diffalign.rewards.sound_encoder import SoundEncoder
from tests.rewards.sounds import buzz, noise
from tests.rewards.tiny_clap import tiny_clap_folder

# aisfx 0.1.2's network over spectra of Essentia 2.1-beta6 (its compute_spectrogram's settings), of 5 s of buzz: the first
# five of 512 features of the three frames, and the mean of all
AISFX = [
    [0.413706, 0.403603, 0.794106, 0.918698, 0.292420],
    [0.209349, 0.591156, 0.862673, 0.591641, 0.294119],
    [0.275561, 0.790085, 1.114813, 0.535738, 0.239386],
]
AISFX_MEAN = 1.0550634
SPECTRUM_MEAN, SPECTRUM_50 = 0.14693731, {3: 0.51858187, 20: 0.447298, 60: 0.0}

# Resemblyzer 0.1.4 with librosa 0.11.0, `embed_utterance(normalize_volume(sound, -30, increase_only=True),
# return_partials=True)`, of the same: the largest five of the utterance, and these of the second frame
PLACES = [246, 182, 36, 207, 218]
SPEAKER = [0.272132, 0.201099, 0.192150, 0.189794, 0.185865]
SPEAKER_FRAME_1 = [0.259803, 0.220857, 0.207501, 0.155395, 0.207259]


def clap_encoder() -> ClapEncoder:
    return ClapEncoder(ClapTowers(*load_clap("fad", tiny_clap_folder()), device="cpu"))


ENCODERS = {"aisfx": AisfxEncoder, "speaker": SpeakerEncoder, "clap": clap_encoder}


def test_aisfx_features_are_those_of_its_package() -> None:
    columns = log_spectrum(torch.from_numpy(buzz(44100, 5.0))[None])[0]
    assert columns.shape == (217, 96) and columns.mean().item() == pytest.approx(SPECTRUM_MEAN, abs=1e-6)
    assert [columns[50, band].item() for band in SPECTRUM_50] == pytest.approx([*SPECTRUM_50.values()], abs=1e-5)
    (frames,) = AisfxEncoder().encode_frames([Audio(buzz(44100, 5.0), 44100)])
    assert frames.shape == (3, 512) and frames.dtype == torch.float64
    np.testing.assert_allclose(frames[:, :5], AISFX, atol=2e-5)
    assert frames.mean().item() == pytest.approx(AISFX_MEAN, abs=1e-5)


def test_speaker_features_are_those_of_its_package() -> None:
    audio = Audio(buzz(16000, 5.0), 16000)
    (frames,), (row,) = SpeakerEncoder().encode_frames([audio]), SpeakerEncoder().encode([audio])
    assert frames.shape == (5, 256)
    np.testing.assert_allclose(row[PLACES], SPEAKER, atol=2e-6)
    np.testing.assert_allclose(frames[1, PLACES], SPEAKER_FRAME_1, atol=2e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_frames_of_several_samples(name: str) -> None:
    encoder = ENCODERS[name]()
    assert isinstance(encoder, FrameEncoder) and encoder.name == name and encoder.version.startswith("1-")
    sounds = [Audio(buzz(encoder.rate, 1.0), encoder.rate), Audio(0.1 * noise(4000).clip(-5, 5), 8000)]
    one, bad, other = encoder.encode_frames([sounds[0], "a.wav", sounds[1]])
    assert bad == "sound must be an Audio(waveform, rate), got str"
    assert one.shape[1] == other.shape[1] and len(one) == len(other) == 1
    torch.testing.assert_close(encoder.encode([sounds[0]])[0], encoder.joined(one), rtol=0, atol=0)
    torch.testing.assert_close(frames_of(encoder, sounds)[1], other, rtol=0, atol=0)  # neighbours do not matter
    assert encoder.split(sounds) == sounds and encoder.split(sounds[0]) == sounds[:1]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_gradient_reaches_the_waveform(name: str) -> None:
    encoder: SoundEncoder = ENCODERS[name]()
    wave = torch.from_numpy(0.1 * noise(8000).clip(-5, 5))[None].requires_grad_()
    weights = torch.randn(encoder.encode_tensor(wave.detach(), 16000).shape, generator=torch.Generator().manual_seed(0))

    def value(at: torch.Tensor) -> torch.Tensor:
        return (encoder.encode_tensor(at, 16000) * weights).sum().double()

    (gradient,) = torch.autograd.grad(value(wave), wave)
    step = 1e-3 * gradient / gradient.norm()
    change = (value(wave.detach() + step) - value(wave.detach() - step)).item() / 2e-3
    assert change == pytest.approx(gradient.norm().item(), rel=0.1)


def test_longer_sound_has_more_frames() -> None:
    lengths = {seconds: Audio(buzz(16000, seconds), 16000) for seconds in (1.0, 3.0, 4.0)}
    assert [len(each) for each in AisfxEncoder().encode_frames([*lengths.values()])] == [1, 1, 2]
    assert [len(each) for each in SpeakerEncoder().encode_frames([*lengths.values()])] == [1, 3, 4]
    assert [len(each) for each in clap_encoder().encode_frames([*lengths.values()])] == [1, 3, 4]


def test_silence() -> None:
    silence = Audio(np.zeros(16000, np.float32), 16000)
    assert SpeakerEncoder().encode([silence]) == ["it is silent: nobody speaks"]
    assert AisfxEncoder().encode([silence])[0].isfinite().all()


def test_sounds_differ_to_vendi() -> None:
    voices = [Audio(buzz(16000, 1.0), 16000)] * 3
    mixed = [voices[0], Audio(0.1 * noise(16000).clip(-5, 5), 16000), Audio(buzz(16000, 2.0)[::3].copy(), 16000)]
    vendi = load_reward("vendi", encoder="aisfx")
    assert vendi.spec.media == "audio" and vendi(voices).item() == pytest.approx(1) and vendi(mixed) > 1.2


@pytest.mark.parametrize("name", ["aisfx", "speaker"])
def test_a_missing_wheel_is_named_at_once(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_WHEELS", str(tmp_path))
    with pytest.raises(MissingExtraError, match="diffalign rewards fetch"):
        load_encoder(name)
