"""Picture files that a browser shows, told by their first bytes."""

from __future__ import annotations

from pathlib import Path

from diffalign.exceptions import DataError

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def picture_type(folder: Path, name: str) -> str:
    """The media type of a picture of the folder.

    Raises:
        DataError: missing, of another type, or outside of the folder: a listing from elsewhere must not open other files.
    """
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{path}: lies outside of the folder; put the pictures into it, and name them relative to it"
            )
        with path.open("rb") as file:
            start = file.read(12)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path!s:.300}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "image/webp"
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            return kind
    raise DataError(f"{path}: not a PNG, JPEG, GIF or WebP picture, and a browser shows no others")
