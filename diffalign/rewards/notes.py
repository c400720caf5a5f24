"""Are the notes that were asked for played: basic-pitch listens, and its notes are compared. The network is in a wheel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError
from diffalign.rewards.media import Audio
from diffalign.rewards.onnx_models import onnx_session
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.rewards.resampling import mono_at
from diffalign.rewards.wheels import PackagedFile, packaged_file

PITCH_FILE = PackagedFile(
    package="basic-pitch",
    version="0.4.0",
    member="basic_pitch/saved_models/icassp_2022/nmp.onnx",
    sha256="2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
    licence="Apache-2.0",
)
LOWEST, HIGHEST = 21, 108  # MIDI: A0 and C8, the piano's keys
_RATE, _HOP = 22050, 256  # samples a second; samples from one frame to the next
_WINDOW = 2 * _RATE - _HOP  # samples that the network takes
_CUT = 15  # frames at each end of a window that do not count
_STEP = _WINDOW - 2 * _CUT * _HOP  # samples from one window to the next
_NAME = re.compile(r"(?<![A-Za-z0-9#♯♭])([A-G])([#♯b♭]?)(-?\d)(?![A-Za-z0-9])")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class AskedNote(NamedTuple):
    """A note that should sound.

    Attributes:
        pitch: MIDI number; 69 is A4, 440 Hz.
        start, end: seconds, or None: at any time.
    """

    pitch: int
    start: float | None = None
    end: float | None = None


class NotesReward(SampleReward):
    """Whether the notes that were asked for are heard, and no others: F-measure of basic-pitch's transcription.

    A note is heard in a frame (11.6 ms) where the network's posterior reaches `threshold`, over `shortest` seconds or more
    at a stretch. precision: of all that is heard (frames times notes), the share that was asked for. recall: of notes
    asked for with times, the share of their frames in which they are heard; without times, the share of the notes that are
    heard at all. Value: `2 precision recall / (precision + recall)`, 0 where nothing right is heard.

    Range: [0, 1]. Notes come from `metadata["notes"]`, [69, 73] or with seconds [[69, 0.0, 1.5], ...], else by name from
    the prompt ("play A4 and C#5"). Differentiable: no.
    Source: Bittner et al. 2022, "A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription and Multipitch
    Estimation" (basic-pitch); the comparison is diffalign's own.
    """

    components = ("precision", "recall")

    def __init__(self, *, threshold: float = 0.3, shortest: float = 0.1277, threads: int = 1) -> None:
        """Find the network.

        Args:
            threshold: of the posterior, in (0, 1]; basic-pitch's own for frames is 0.3.
            shortest: seconds; basic-pitch's own is 127.7 ms, 11 frames.
            threads: of onnxruntime.

        Raises:
            MissingExtraError: the wheel or onnxruntime is not there; says how to get it.
        """
        self.threshold, self.shortest, self.threads = threshold, shortest, threads
        self.spec = notes_spec(threshold, shortest)
        self._session = onnx_session(packaged_file(PITCH_FILE), "notes", threads)

    def judge(self, medium: Audio, sample: Sample) -> tuple[float, dict[str, float]]:
        asked = asked_notes(sample.prompt, sample.metadata)
        times, posteriors = self.posteriors(medium)
        heard = lasting(posteriors >= self.threshold, round(self.shortest * _RATE / _HOP))
        precision, recall = precision_and_recall(heard, times, asked)
        value = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return value, {"precision": precision, "recall": recall}

    def posteriors(self, audio: Audio) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Seconds of every frame [frames], and how sure the network is of every key from A0 on, [frames, 88] in [0, 1]."""
        wave = mono_at(audio, _RATE)
        padded = np.concatenate([np.zeros(_CUT * _HOP, np.float32), wave])
        count = -(-len(padded) // _STEP)
        padded = np.pad(padded, (0, (count - 1) * _STEP + _WINDOW - len(padded)))
        name = self._session.get_inputs()[0].name
        times, found = [], []
        for window in range(count):
            part = padded[window * _STEP : window * _STEP + _WINDOW]
            (keys,) = self._session.run(["StatefulPartitionedCall:1"], {name: part[None, :, None]})
            kept = keys[0, _CUT:-_CUT]
            found.append(kept)
            times.append((window * _STEP + np.arange(len(kept)) * _HOP) / _RATE)
        seconds = np.concatenate(times)
        inside = seconds < len(wave) / _RATE
        return seconds[inside], np.concatenate(found)[inside]


def asked_notes(prompt: str, metadata: Mapping[str, Any]) -> list[AskedNote]:
    """The notes of `metadata["notes"]`, or those that the prompt names (C4 is the middle C, MIDI 60).

    Raises:
        DataError: there are none, or something else stands there.
    """
    if "notes" in metadata:
        told = metadata["notes"]
        if isinstance(told, str | Mapping) or not isinstance(told, Sequence | np.ndarray):
            raise DataError(
                f"metadata notes must be a list, as [69, 73] or [[69, 0.0, 1.5]], got {type(told).__name__}"
            )
        notes = [_note(one) for one in told]
    else:
        notes = [AskedNote(pitch) for pitch in named_notes(prompt)]
    if not notes:
        raise DataError("no notes are asked for: neither in metadata['notes'] nor by name (as A4) in the prompt")
    for note in notes:
        if not LOWEST <= note.pitch <= HIGHEST:
            raise DataError(f"notes must be MIDI numbers of the piano, {LOWEST} to {HIGHEST}, got {note.pitch}")
        if note.start is not None and note.end is not None and not 0 <= note.start < note.end < math.inf:
            raise DataError(f"a note must end after it starts, got {note.start:g} to {note.end:g} s")
    if len({note.start is None for note in notes}) > 1:
        raise DataError("either all notes have times or none has")
    return notes


def named_notes(text: str) -> list[int]:
    """MIDI numbers of the notes that a text names by letter, accidental and octave, in order: A4, C#5, Bb3."""
    signs = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
    return [_STEPS[letter] + signs[sign] + 12 * (int(octave) + 1) for letter, sign, octave in _NAME.findall(text)]


def lasting(on: NDArray[np.bool_], shortest: int) -> NDArray[np.bool_]:
    """What is on for `shortest` frames or more at a stretch, [frames, notes]."""
    held = on.copy()
    for key in np.flatnonzero(on.any(0)):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], on[:, key], [False]])))
        for first, behind in zip(edges[::2], edges[1::2], strict=True):
            held[first:behind, key] = behind - first >= shortest
    return held


def precision_and_recall(
    heard: NDArray[np.bool_], times: NDArray[np.float64], asked: Sequence[AskedNote]
) -> tuple[float, float]:
    """How much of what is heard was asked for, and of what was asked for is heard; see `NotesReward`."""
    wanted = np.zeros_like(heard)
    for note in asked:
        if note.start is None or note.end is None:
            wanted[:, note.pitch - LOWEST] = True
        else:
            wanted[(times >= note.start) & (times < note.end), note.pitch - LOWEST] = True
    right = heard & wanted
    precision = right.sum() / heard.sum() if heard.any() else 0.0
    if asked[0].start is None:
        pitches = sorted({note.pitch - LOWEST for note in asked})
        return float(precision), float(right[:, pitches].any(0).mean())
    return float(precision), float(right.sum() / wanted.sum()) if wanted.any() else 0.0


def _note(one: Any) -> AskedNote:
    parts = [one] if isinstance(one, int | np.integer) else list(one) if isinstance(one, Sequence) else []
    numbers = all(isinstance(part, int | float | np.number) and not isinstance(part, bool) for part in parts)
    if len(parts) not in (1, 3) or not numbers or float(parts[0]) % 1:
        raise DataError(f"a note must be a MIDI number, or [number, start, end] in seconds, got {one!r:.80}")
    return AskedNote(int(parts[0]), *map(float, parts[1:]))


def notes_spec(threshold: float = 0.3, shortest: float = 0.1277) -> RewardSpec:
    """What the number means."""
    return RewardSpec(
        name="notes",
        version=f"1-{threshold:g}-{shortest:g}-{PITCH_FILE.digest}",
        media="audio",
        level="instance",
        unit="1",
        range=(0.0, 1.0),
        differentiable=False,
        licence="Apache-2.0 (basic-pitch's network too)",
        needs=(),
        reads=("prompt", "metadata"),
        source='Bittner et al. 2022, "A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription [...]"',
    )
