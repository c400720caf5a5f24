"""How many samples the header of a sound file promises: a file that was cut short opens as a shorter sound."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_STREAMED = 0x7FFF0000  # bytes: who writes into a pipe cannot know the size, and writes one from here on
_PLAIN = (1, 3, 6, 7)  # WAV's formats of samples that have equally many bytes: whole numbers, floats, A-law, mu-law
_EXTENSIBLE = 0xFFFE
_MP3_FRAMES = 2304  # samples by which a decoder may miss what an MP3 says: two of its frames


def promised_samples(content: bytes, told: int, there: int) -> int:
    """What the header says, of each channel; `there` where it does not say, or cannot know.

    Args:
        content: the file's bytes.
        told: what the decoder took from the header.
        there: what it read.
    """
    if content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        return _of_wave(content) or there
    if content[:4] == b"FORM" and content[8:11] == b"AIF":
        frames = (struct.unpack_from(">HI", body)[1] for name, body, _ in _chunks(content, ">") if name == b"COMM")
        return next(frames, there)
    if b"Xing" in content or b"Info" in content:  # of an MP3 without them the decoder guesses
        return told if told > there + _MP3_FRAMES else there
    return there


def _of_wave(content: bytes) -> int:
    """0 where nothing is promised."""
    width = fact = large = 0
    for name, body, size in _chunks(content, "<"):
        if name == b"ds64" and len(body) >= 16:
            (large,) = struct.unpack_from("<Q", body, 8)
        elif name == b"fmt " and len(body) >= 16:
            kind, _, _, _, block = struct.unpack_from("<HHIIH", body)
            if kind == _EXTENSIBLE and len(body) >= 26:
                (kind,) = struct.unpack_from("<H", body, 24)
            width = block if kind in _PLAIN else 0
        elif name == b"fact" and len(body) >= 4:
            (fact,) = struct.unpack_from("<I", body)
        elif name == b"data":
            size = large if content[:4] == b"RF64" else size if size < _STREAMED else 0
            if size <= len(body):
                return 0  # all of it is there
            return size // width if width else fact
    return 0


def _chunks(content: bytes, order: str) -> Iterator[tuple[bytes, memoryview, int]]:
    """Name, what is there, and the size that it should have."""
    at = 12
    while at + 8 <= len(content):
        name, (size,) = content[at : at + 4], struct.unpack_from(f"{order}I", content, at + 4)
        yield name, memoryview(content)[at + 8 : at + 8 + size], size
        at += 8 + size + size % 2
