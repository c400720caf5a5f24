"""The notes reward: what is asked for, what is heard, and the comparison of the two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffalign.exceptions import DataError
from diffalign.rewards import Audio, NotesReward, Sample, load_reward
from diffalign.rewards.notes import AskedNote, asked_notes, lasting, named_notes, precision_and_recall
from tests.rewards.sounds import noise, note

RATE = 22050


def scored(wave: np.ndarray, prompt: str = "", **metadata: Any) -> tuple[float, float, float]:
    output = load_reward("notes").score([Sample(Audio(wave.astype(np.float32), RATE), prompt, metadata)])
    assert output.reasons == (None,)
    return output.values.item(), output.components["precision"].item(), output.components["recall"].item()


def test_440_hz_is_note_69_and_no_other() -> None:
    times, sure = NotesReward().posteriors(Audio(note(69, 3.0, harmonics=1), RATE))
    assert sure.shape == (len(times), 88) and times[0] == 0 and times[-1] < 3
    assert np.diff(times).min() > 0 and np.diff(times).max() < 0.012
    assert sure.mean(0).argmax() + 21 == 69 and sorted(set(np.flatnonzero((sure > 0.3).any(0)) + 21)) == [69]


@pytest.mark.parametrize(("pitch", "least"), [(40, 0.9), (57, 1.0), (69, 1.0), (84, 0.65)])
def test_the_asked_note_is_worth_nearly_1_and_another_0(pitch: int, least: float) -> None:
    wave = note(pitch, 1.0)  # of very low and very high ones the network hears other notes too
    value, _, recall = scored(wave, notes=[pitch])
    assert value >= least and recall == 1.0
    assert scored(wave, notes=[pitch + 1]) == (0.0, 0.0, 0.0)


def test_names_in_the_prompt_ask_too() -> None:
    wave = note(69, 1.0)
    assert scored(wave, "play A4, please") == (1.0, 1.0, 1.0)
    assert scored(wave, "A4 and C5") == pytest.approx((2 / 3, 1.0, 0.5))
    assert scored(wave, "play C5", notes=[69])[0] == 1.0  # metadata goes first


def test_times_count_where_they_are_given() -> None:
    melody = np.concatenate([note(60, 1.0), note(67, 1.0)])
    right, swapped = ([[a, 0.0, 1.0], [b, 1.0, 2.0]] for a, b in ((60, 67), (67, 60)))
    assert scored(melody, notes=right)[0] > 0.95
    assert scored(melody, notes=swapped)[0] < 0.15
    assert scored(melody, notes=[60, 67])[0] > 0.95


def test_noise_and_silence_play_nothing() -> None:
    assert scored(np.zeros(RATE), notes=[69]) == (0.0, 0.0, 0.0)
    assert scored(0.1 * noise(RATE).clip(-5, 5), notes=[69])[0] == 0.0


def test_precision_and_recall_by_hand() -> None:
    heard = np.zeros((10, 88), dtype=bool)
    heard[:6, 48], heard[4:8, 50] = True, True  # A4 for 6 frames, B4 for 4
    times = np.arange(10) / 10
    assert precision_and_recall(heard, times, [AskedNote(69)]) == (0.6, 1.0)
    assert precision_and_recall(heard, times, [AskedNote(69), AskedNote(72)]) == (0.6, 0.5)
    assert precision_and_recall(heard, times, [AskedNote(69, 0.3, 0.8)]) == pytest.approx((0.3, 0.6))


def test_short_ones_do_not_last() -> None:
    on = np.array([[1, 1, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]], dtype=bool).T
    assert lasting(on, 3)[:, 0].tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert lasting(on, 1).tolist() == on.tolist()


def test_names_of_notes() -> None:
    assert named_notes("C4 A4 C#5 Bb3 B♭3 F♯2 C-1 A0 C8") == [60, 69, 73, 58, 58, 42, 0, 21, 108]
    assert named_notes("BASIC4 A44 a4 H4 MP3 #A4 A4b") == []


@pytest.mark.parametrize(
    ("prompt", "metadata", "says"),
    [
        ("a piano", {}, "no notes are asked for"),
        ("A4", {"notes": []}, "no notes are asked for"),
        ("", {"notes": "A4"}, "must be a list"),
        ("", {"notes": [69.5]}, r"a MIDI number, or \[number, start, end\] in seconds, got 69.5"),
        ("", {"notes": [[69, 0.0]]}, "a MIDI number, or"),
        ("", {"notes": [["A4", 0, 1]]}, "a MIDI number, or"),
        ("", {"notes": [True]}, "a MIDI number, or"),
        ("", {"notes": [20]}, "21 to 108, got 20"),
        ("", {"notes": [[69, 1.0, 0.5]]}, "end after it starts, got 1 to 0.5 s"),
        ("", {"notes": [69, [72, 0.0, 1.0]]}, "either all notes have times or none"),
    ],
)
def test_what_cannot_be_asked(prompt: str, metadata: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        asked_notes(prompt, metadata)
    output = load_reward("notes").score([Sample(Audio(note(69, 0.5), RATE), prompt, metadata)])
    assert output.values.isnan().all() and output.reasons[0] is not None


def test_overtones_cost_a_note_its_value() -> None:
    """The figures of docs/rewards/notes.md."""
    t = np.arange(RATE) / RATE
    found = []
    for fall in (1, 0):
        wave = sum(np.sin(2 * np.pi * 440 * k * t) / k**fall for k in range(1, 7))
        found.append(scored(0.3 * wave / np.abs(wave).max() * np.minimum(1, 50 * np.minimum(t, 1 - t)), notes=[69])[0])
    assert found == pytest.approx([0.68, 0.51], abs=0.02)
