"""DNSMOS: the numbers of the package whose networks these are, and its windows."""

from __future__ import annotations

import numpy as np
import pytest

from diffalign.rewards import Audio, Sample, load_reward
from diffalign.rewards.speech_quality import _windows
from tests.rewards.sounds import buzz, noise

RATE = 16000

# speechmos 0.0.1.1 with librosa 0.11.0, `dnsmos.run(sound, 16000, model_type)`: OVRL, SIG, BAK, P.808;
# of a buzz and of noise of that standard deviation over it
RECORDED = {
    ("plain", 5.0, 0.0): (2.69429, 3.15093, 3.80086, 2.61652),
    ("plain", 5.0, 0.02): (1.19369, 1.50552, 1.15807, 2.32596),
    ("plain", 11.0, 0.1): (1.08610, 1.16268, 1.10140, 2.08076),
    ("personalised", 5.0, 0.0): (2.91099, 3.50955, 3.93536, 2.61652),
    ("personalised", 5.0, 0.02): (2.06248, 3.84908, 1.72097, 2.32596),
}


def sound(seconds: float, level: float) -> Audio:
    clean = buzz(RATE, seconds)
    return Audio(np.clip(clean + level * noise(len(clean)), -1, 1), RATE)


@pytest.mark.parametrize(("case", "wanted"), RECORDED.items())
def test_numbers_are_those_of_speechmos(case: tuple[str, float, float], wanted: tuple[float, ...]) -> None:
    kind, seconds, level = case
    output = load_reward("speech_quality", personalised=kind == "personalised").score([Sample(sound(seconds, level))])
    found = [output.values.item(), *(output.components[name].item() for name in ("sig", "bak", "p808"))]
    assert found == pytest.approx(wanted, abs=1e-4)


def test_another_rate_and_two_channels_say_nearly_the_same() -> None:
    high = buzz(48000, 5.0)
    value = load_reward("speech_quality")([Audio(np.stack([high, high]), 48000)]).item()
    assert value == pytest.approx(RECORDED["plain", 5.0, 0.0][0], abs=0.2)


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 7), (5.0, 1), (9.01, 1), (10.9, 1), (11.0, 2), (30.0, 21)])
def test_windows_are_cut_as_speechmos_does(seconds: float, count: int) -> None:
    wave = np.arange(int(seconds * RATE), dtype=np.float32) / (seconds * RATE)
    windows = _windows(wave)
    assert len(windows) == count and {len(window) for window in windows} == {144160}
    if count > 1 and seconds > 9.01:
        assert windows[1][0] == wave[RATE]


def test_silence_has_a_number() -> None:
    output = load_reward("speech_quality").score([Sample(Audio(np.zeros(RATE * 5, np.float32), RATE))])
    assert output.values.isfinite().all() and output.reasons == (None,)
