"""Sounds that tests make: a buzz like a voice's, notes, noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def buzz(rate: int, seconds: float) -> NDArray[np.float32]:
    """Nineteen harmonics of a wandering pitch, three times a second louder: what networks for speech take for some."""
    t = np.arange(int(rate * seconds)) / rate
    phase = 2 * np.pi * (140 * t + 8 * np.sin(2 * np.pi * 0.7 * t))
    voice = sum(np.sin(k * phase) / k**1.2 for k in range(1, 20))
    return (0.08 * voice * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t)) ** 2).astype(np.float32)


def noise(count: int, seed: int = 0) -> NDArray[np.float32]:
    """White, of standard deviation 1."""
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def note(pitch: int, seconds: float, rate: int = 22050, harmonics: int = 6) -> NDArray[np.float32]:
    """A note by its MIDI number, with harmonics that fall by the square of their number."""
    t = np.arange(int(rate * seconds)) / rate
    tone = sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * k * t) / k**2 for k in range(1, harmonics + 1))
    return (0.3 * tone * np.minimum(1, 50 * np.minimum(t, seconds - t))).astype(np.float32)
