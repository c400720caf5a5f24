"""Small pictures and records for the tests of this room."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture_file(shade: int = 0, size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    """Bytes of a picture with something different in every corner."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None]
    pixels[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    pixels[..., 2] = shade
    return encode(Image.fromarray(pixels), form)


def encode(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def pairs_folder(home: Path, count: int = 3, **columns: Any) -> Path:
    """A folder of `count` pairs, a.png preferred over b.png."""
    home.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        (home / f"{number}a.png").write_bytes(picture_file(number))
        (home / f"{number}b.png").write_bytes(picture_file(100 + number))
        row = {
            "id": f"r{number}",
            "prompt": f"prompt {number}",
            "chosen": f"{number}a.png",
            "rejected": f"{number}b.png",
        }
        rows.append(row | columns)
    write_rows(home / "metadata.jsonl", rows)
    return home


def groups_folder(home: Path, rewards: Iterable[list[float | None]], **columns: Any) -> Path:
    """A folder of groups: picture `k` of group `n` is n-k.png, of shade 10 n + k."""
    home.mkdir(exist_ok=True)
    rows = []
    for number, scores in enumerate(rewards):
        names = [f"{number}-{member}.png" for member in range(len(scores))]
        for member, name in enumerate(names):
            (home / name).write_bytes(picture_file(10 * number + member))
        row = {"id": f"g{number}", "prompt": f"prompt {number}", "items": names, "rewards": scores}
        rows.append(row | columns)
    write_rows(home / "metadata.jsonl", rows)
    return home
