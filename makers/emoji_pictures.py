"""The pictures and names that `emoji-sd3` is made of: Noto Color Emoji, drawn by Pillow at 32x32 on white.

The font is Debian's `fonts-noto-color-emoji` (SIL Open Font Licence 1.1); the names are Unicode's, in lower case, as
Python's `unicodedata` has them. Signs are left out (letters in squares, arrows, clock faces, zodiac, geometric shapes):
what stays are pictures of things. No flags, no skin tones, no joined emoji.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SIZE = 32
_DRAWN_AT = 109  # the one size that the font has bitmaps for
_CANVAS = (136, 128)
_BLOCKS = (range(0x231A, 0x3000), range(0x1F300, 0x1FB00))
_SIGNS = frozenset({
    "aquarius", "aries", "arrow", "arrows", "cancer", "capricorn", "circle", "circled", "collision", "curly", "dash",
    "diamond", "emoji", "gemini", "heavy", "leo", "libra", "oclock", "ophiuchus", "ornament", "pisces", "sagittarius",
    "scorpius", "sparkle", "square", "squared", "symbol", "taurus", "thirty", "triangle", "vertical", "virgo",
})  # fmt: skip
# Unicode's name where it says something else than the picture, or nobody's word for it.
CALLED = {
    0x2600: "sun",
    0x260E: "telephone",
    0x2639: "frowning face",
    0x263A: "smiling face",
    0x2702: "scissors",
    0x2764: "red heart",
    0x2B50: "star",
    0x1F346: "eggplant",
    0x1F355: "pizza",
    0x1F381: "gift",
    0x1F383: "pumpkin",
    0x1F385: "santa claus",
    0x1F3E0: "house",
    0x1F697: "car",
}


COMMON = (  # what a person is asked to recognise
    "red heart", "grinning face", "face with tears of joy", "smiling face with heart-shaped eyes", "thumbs up sign",
    "fire", "red apple", "banana", "pizza", "sun",
    "star", "dog face", "cat face", "house", "car",
    "airplane", "soccer ball", "birthday cake", "rose", "crescent moon",
)  # fmt: skip
_HELD_OUT = 120


@dataclass(frozen=True)
class Emoji:
    """One emoji: its code point and the name that it is asked for by."""

    code: int
    name: str


@cache
def emoji() -> tuple[Emoji, ...]:
    """All emoji of the model in the order of their codes; names are unique."""
    font = load_font()
    chosen = []
    for code in (code for block in _BLOCKS for code in block):
        name = CALLED.get(code, unicodedata.name(chr(code), "").lower())
        if name and not is_sign(name) and _bitmap(code, font) is not None:
            chosen.append(Emoji(code, name))
    return tuple(chosen)


def held_out_names() -> list[str]:
    """The names that no preference pair is of: drawn once with seed 0. The model itself was trained on every name."""
    names = [one.name for one in emoji()]
    return [names[number] for number in np.random.default_rng(0).permutation(len(names))[:_HELD_OUT]]


def is_sign(name: str) -> bool:
    """Whether a name is one of the signs that are left out."""
    return not _SIGNS.isdisjoint(name.replace("-", " ").split())


@cache
def load_font() -> ImageFont.FreeTypeFont:
    """The font; a message that says where it comes from if it is not there."""
    if not FONT.is_file():
        raise SystemExit(f"{FONT}: no such font; install it with: apt-get install fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), _DRAWN_AT, layout_engine=ImageFont.Layout.BASIC)


def draw_emoji(chosen: tuple[Emoji, ...] | list[Emoji], size: int = SIZE) -> Tensor:
    """Their pictures, uint8 [emoji, 3, size, size], on white, the longer side filling the picture but for a pixel."""
    font = load_font()
    pictures = []
    for one in chosen:
        bitmap = _bitmap(one.code, font)
        assert bitmap is not None
        page = Image.new("RGBA", (max(_CANVAS),) * 2, "white")
        page.alpha_composite(bitmap, ((page.width - bitmap.width) // 2, (page.height - bitmap.height) // 2))
        pictures.append(np.asarray(page.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _bitmap(code: int, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The glyph on a clear ground; None where the font has none."""
    picture = Image.new("RGBA", _CANVAS, (255, 255, 255, 0))
    ImageDraw.Draw(picture).text((0, 0), chr(code), font=font, embedded_color=True)
    return picture if picture.getchannel("A").getextrema()[1] else None
