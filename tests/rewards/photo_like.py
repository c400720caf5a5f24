"""Seeded pictures with the statistics of photographs (spectra that fall with frequency), and ways to spoil them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter


def photo_like(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: noise with a spectrum of 1/f, the channels mostly alike."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        plane = np.fft.ifft2(np.fft.fft2(draw.standard_normal((height, width))) / frequency).real
        planes.append((plane - plane.mean()) / plane.std())
    colours = np.stack([128 + 45 * (0.8 * planes[0] + 0.2 * plane) for plane in planes], -1)
    return colours.clip(0, 255).round().astype(np.uint8)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def as_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def noisy(picture: np.ndarray, deviation: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return (picture + noise).clip(0, 255).round().astype(np.uint8)
