"""Samples that a reward can be tried on: pictures, sound and video made of random numbers, the same every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffalign.exceptions import ConfigError
from diffalign.rewards._scene_grammar import parse_caption
from diffalign.rewards._scene_renderer import render_scene
from diffalign.rewards.media import Audio, Video
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample
from diffalign.sim import Mesh, Voxels

_SIDE = 64  # pixels
_RATE, _SECONDS = 16000, 2.0
_FRAMES, _FPS = 8, 8.0
_SIZES = ((48, 96), (96, 48), (7, 5), (1, 1), (131, 200))

# rewards that understand only some prompts -> some that they understand
PROMPTS: dict[str, tuple[str, ...]] = {
    "scene": ("a red circle", "two green crosses", "a red circle left of a blue square", "a blue square"),
    "geneval": ("a red circle", "two green crosses", "a red circle left of a blue square", "a green circle"),
    "emoji": ("red heart", "ghost", "pizza", "robot face"),
    "ocr": ('a sign that says "OPEN"', 'the word "NOON" on a wall', 'a card with "LOVE"', '"EXIT" above a door'),
    "notes": ("C4", "E4 G4", "A4", "C4 E4 G4"),
}
_PROMPTS = ("a photo of a cat", "two red apples on a table", "a city at night", "green hills")


def picture(seed: int, height: int = _SIDE, width: int = _SIDE) -> Pixels:
    """Soft clouds of colour with some grain, uint8 [height, width, 3], from 40 to 215."""
    draws = np.random.default_rng(seed)
    coarse = Image.fromarray(draws.integers(50, 206, (5, 5, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int64)
    pixels: Pixels = (soft + draws.integers(-10, 11, soft.shape)).clip(40, 215).astype(np.uint8)
    return pixels


def sound(seed: int, seconds: float = _SECONDS, rate: int = _RATE, channels: int = 1) -> Audio:
    """Three tones that swell and a little noise, float32 [channels, samples]."""
    draws = np.random.default_rng(seed)
    times = np.arange(max(round(seconds * rate), channels, 1)) / rate
    wave = 0.02 * draws.standard_normal(len(times))
    for _ in range(3):
        tone, beat = draws.uniform(110, 1760), draws.uniform(0.5, 4)
        wave += 0.2 * np.sin(2 * np.pi * tone * times) * np.sin(2 * np.pi * beat * times) ** 2
    return Audio(np.tile(wave.clip(-1, 1).astype(np.float32), (channels, 1)), rate)


def video(seed: int, height: int = _SIDE, width: int = _SIDE, frames: int = _FRAMES) -> Video:
    """A picture that moves to the right."""
    still = picture(seed, height, width)
    return Video([np.roll(still, 2 * step, axis=1) for step in range(frames)], _FPS)


def shape(seed: int, size: int = 8) -> Mesh:
    """A foot and a beam on it that sticks out more and more with the seed: blocks, z up."""
    grid = np.zeros((3 * size, size, size), dtype=bool)
    foot, beam = max(1, size // 4), max(1, size // 8)
    grid[: foot + 1, :foot, : size - beam] = True
    grid[: foot + 1 + seed % 4 * 5 * size // 8, :foot, size - beam :] = True
    return Voxels.of(grid).surface()


MAKERS: dict[str, Callable[[int], Any]] = {"image": picture, "audio": sound, "video": video, "mesh": shape}


def scene(seed: int) -> Pixels:
    """The scene of the prompt of this number; the last one shows the one before it."""
    told = parse_caption(PROMPTS["scene"][min(seed, 2)])
    assert told is not None
    return np.asarray(render_scene(told, np.random.default_rng(seed)))


def sign(seed: int) -> Pixels:
    """A word of the prompts of ocr, dark on light; the last one is of another prompt."""
    word = PROMPTS["ocr"][min(seed, 2)].split('"')[1]
    card = Image.new("RGB", (160, _SIDE), (235, 235, 225))
    ImageDraw.Draw(card).text((16, 12), word, (20, 20, 40), font=ImageFont.load_default(36))
    return np.asarray(card)


# rewards to which random pictures are all alike -> pictures that they tell apart
_SPECIAL: dict[str, Callable[[int], Any]] = {"scene": scene, "geneval": scene, "ocr": sign}


def other_sizes(medium: str) -> list[Callable[[int], Any]]:
    """Makers of media of other sizes: wide, high, tiny, odd; of sound, other rates, lengths and channels; finer shapes."""
    if medium == "audio":
        rates = [partial(sound, seconds=1.0, rate=rate) for rate in (8000, 22050, 44100, 48000)]
        return [*rates, *(partial(sound, seconds=length) for length in (0.001, 0.1, 12.0)), partial(sound, channels=2)]
    if medium == "mesh":
        return [partial(shape, size=size) for size in (2, 3, 5, 16)]
    make: Callable[..., Any] = picture if medium == "image" else video
    return [partial(make, height=height, width=width) for height, width in _SIZES]


def examples_for(spec: RewardSpec) -> list[Sample]:
    """Four samples for a reward, with prompts, and with references where it needs these.

    Raises:
        ConfigError: it needs something that nobody can guess.
    """
    if spec.media not in MAKERS or "metadata" in spec.needs:
        needed = "metadata" if spec.media in MAKERS else spec.media
        raise ConfigError(
            f"selftest: {spec.name} needs {needed}: call self_test(reward, samples) with some that it can score"
        )
    make = _SPECIAL.get(spec.name, MAKERS[spec.media])
    references = [{"reference": make(100 + seed)} if "reference" in spec.needs else {} for seed in range(4)]
    return [
        Sample(make(seed), prompt, metadata, id=str(seed))
        for seed, (prompt, metadata) in enumerate(zip(PROMPTS.get(spec.name, _PROMPTS), references, strict=True))
    ]
