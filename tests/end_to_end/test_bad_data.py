"""Data that cannot be trained on: the message names the record, and only whole entries of the caches are left."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffalign.data import save_latents
from tests.data.pictures import groups_folder, pairs_folder, picture_file, write_rows
from tests.end_to_end.bad_input import refused, settings_file

PICTURE = picture_file(3)
BOMB = 60_000  # pixels along a side, in 100 bytes


def png_of(side: int) -> bytes:
    """A PNG that says it is side x side, with next to nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def train(home: Path, says: tuple[str, ...], **data: Any) -> None:
    """Refused with these words, whatever else the config would have had it do."""
    data = {"path": str(home / "data"), "resolution": 16} | data
    objective = {"name": "diffusion_dpo", "beta": 500.0}
    if data.get("kind") == "groups":
        objective = {"name": "gdro", "beta": 500.0}
    if data.get("kind") == "labelled":
        objective = {"name": "diffusion_kto", "beta": 500.0}
    file = settings_file(home, data=data, objective=objective)
    refused(home, "train", "-c", file, says=says, may_cache=True)


# ---------------------------------------------------------------- one record of three

# name, what the second of three pairs is like, what the message says
PAIRS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("no prompt", {"prompt": None}, ("record 'r1': column 'prompt' must be text that is not empty, got None",)),
    ("empty prompt", {"prompt": "  "}, ("record 'r1': column 'prompt' must be text that is not empty, got '  '",)),
    ("prompt that is a number", {"prompt": 7}, ("record 'r1': column 'prompt' must be text", "got 7")),
    ("prompt with half an emoji", {"prompt": "a \ud83d"}, ("record 'r1': column 'prompt'", "surrogate")),
    ("id with half an emoji", {"id": "\ud83d"}, ("id", "surrogate", "\\ud83d")),
    ("id twice", {"id": "r0"}, ("record 'r0': this id stands twice", "ids must be unique")),
    (
        "picture that is a number",
        {"chosen": 3},
        ("record 'r1': column 'chosen' must be a picture's path or bytes, got int",),
    ),
    ("picture that is nothing", {"rejected": None}, ("record 'r1': column 'rejected' must be a picture's path",)),
    ("empty path", {"chosen": ""}, ("record 'r1': column 'chosen' must be a picture's path",)),
    (
        "picture that is not there",
        {"chosen": "x.png"},
        (
            "record 'r1': cannot read",
            "x.png: No such file",
        ),
    ),
    ("folder as a picture", {"chosen": "."}, ("record 'r1': cannot read", "Is a directory")),
    ("path with a NUL byte", {"chosen": "a\0b.png"}, ("record 'r1': column 'chosen'", "NUL")),
    ("path with half an emoji", {"chosen": "\ud83d.png"}, ("record 'r1': column 'chosen'", "surrogate")),
    ("path of 5000 letters", {"chosen": "a" * 5000}, ("record 'r1': cannot read", "File name too long")),
    ("truncated picture", {"chosen": "cut.png"}, ("record 'r1': not a readable picture", "bytes")),
    ("text called .png", {"chosen": "text.png"}, ("record 'r1': not a readable picture (of no known format)",)),
    ("picture of no bytes", {"chosen": "empty.png"}, ("record 'r1': not a readable picture", "0 bytes")),
    ("decompression bomb", {"chosen": "bomb.png"}, ("record 'r1': not a readable picture", "decompression bomb")),
    ("picture of no pixels", {"chosen": "none.png"}, ("record 'r1': not a readable picture",)),
    ("votes of nobody", {"votes": {"a": 0, "b": 0}}, ("record 'r1': votes must look like {'a': 7",)),
    ("votes below 0", {"votes": {"a": 3, "b": -1}}, ("record 'r1': votes must look like", "got {'a': 3, 'b': -1}")),
    ("votes that are text", {"votes": "7 to 3"}, ("record 'r1': votes must look like", "got '7 to 3'")),
    ("votes for a third", {"votes": {"a": 3, "c": 1}}, ("record 'r1': votes must look like",)),
    ("votes in fractions", {"votes": {"a": 0.5, "b": 0.5}}, ("record 'r1': votes must look like",)),
]


@pytest.mark.parametrize(("changes", "says"), [row[1:] for row in PAIRS], ids=[row[0] for row in PAIRS])
def test_pair(tmp_path, changes, says):
    folder = pairs_folder(tmp_path / "data")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    rows[1] |= changes
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "cut.png").write_bytes(PICTURE[: len(PICTURE) // 2])
    (folder / "text.png").write_text("a picture of a cat")
    (folder / "empty.png").touch()
    (folder / "bomb.png").write_bytes(png_of(BOMB))
    (folder / "none.png").write_bytes(png_of(0))
    train(tmp_path, says)


# name, what the second of two groups is like, what the message says
GROUPS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("rewards of another length", {"rewards": [1.0]}, ("record 'g1': column 'rewards' must be a list of 2 numbers",)),
    ("one reward", {"rewards": 1.0}, ("record 'g1': column 'rewards' must be a list of 2 numbers", "got 1.0")),
    (
        "infinite reward",
        {"rewards": [1.0, math.inf]},
        ("record 'g1': column 'rewards' must hold finite numbers", "inf"),
    ),
    ("rewards of nobody", {"rewards": [None, None]}, ("record 'g1': column 'rewards' must hold a number",)),
    ("NaN alone", {"rewards": [math.nan, math.nan]}, ("record 'g1': column 'rewards' must hold a number",)),
    ("reward that is text", {"rewards": [1.0, "good"]}, ("record 'g1': column 'rewards'", "got 'good'")),
    ("reward of 400 digits", {"rewards": [1, 10**400]}, ("record 'g1': column 'rewards' must hold finite numbers",)),
    ("no pictures", {"items": []}, ("record 'g1': column 'items' must be a list of pictures, got []",)),
    ("one picture", {"items": "1-0.png"}, ("record 'g1': column 'items' must be a list of pictures",)),
    (
        "fewer pictures than the first",
        {"items": ["1-0.png"], "rewards": [1.0]},
        ("record 'g1': has 1 items", "data.members"),
    ),
]


@pytest.mark.parametrize(("changes", "says"), [row[1:] for row in GROUPS], ids=[row[0] for row in GROUPS])
def test_group(tmp_path, changes, says):
    folder = groups_folder(tmp_path / "data", [[1.0, 0.5], [1.0, 0.2]])
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    rows[1] |= changes
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train(tmp_path, says, kind="groups")


@pytest.mark.parametrize("label", [2, "liked", None, 0.5, [1]], ids=str)
def test_label(tmp_path, label):
    (tmp_path / "a.png").write_bytes(PICTURE)
    rows = [{"prompt": "one", "item": "a.png", "label": 1}, {"prompt": "two", "item": "a.png", "label": label}]
    write_rows(tmp_path / "data.jsonl", rows)
    says = ("record 'row-1': column 'label' must be 'good' or 'bad'", f"got {label!r}")
    train(tmp_path, says, kind="labelled", path=str(tmp_path / "data.jsonl"))


# ---------------------------------------------------------------- the whole source


def nothing(home: Path) -> Path:
    return home / "absent"


def file_of(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        (home / "a.png").write_bytes(PICTURE)
        (home / name).write_bytes(content)
        return home / name

    return write


def empty_folder(home: Path) -> Path:
    (home / "data").mkdir()
    return home / "data"


def folder_as_listing(home: Path) -> Path:
    (home / "data.jsonl").mkdir()
    return home / "data.jsonl"


def table(columns: dict[str, list[Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def line(**row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


PAIR = {"prompt": "one", "chosen": "a.png", "rejected": "a.png"}
TABLE = table({"prompt": ["one"], "chosen": [PICTURE], "rejected": [PICTURE]})

# name, what makes the source, what the message says
SOURCES: list[tuple[str, Callable[[Path], Path], tuple[str, ...]]] = [
    ("no such path", nothing, ("data.path: ", "absent: cannot be read: No such file or folder")),
    (
        "no such listing",
        lambda home: home / "absent.jsonl",
        ("data.path: ", "absent.jsonl: cannot be read: No such file"),
    ),
    ("no such table", lambda home: home / "absent.parquet", ("absent.parquet: cannot be read: No such file",)),
    ("empty folder", empty_folder, ("a data folder must hold metadata.jsonl, one JSON object a line, or .parquet",)),
    ("folder called .jsonl", folder_as_listing, ("a data folder must hold metadata.jsonl",)),
    ("file of another kind", file_of("x.csv", b"a,b\n"), ("x.csv: data must be a folder with metadata.jsonl",)),
    ("listing of nothing", file_of("x.jsonl", b""), ("x.jsonl: no usable pairs (0 ties, 0 bad rows)",)),
    ("listing of blank lines", file_of("x.jsonl", b"\n \n"), ("x.jsonl: no usable pairs",)),
    ("line cut off", file_of("x.jsonl", line(**PAIR) + b'{"prompt": "t'), ("x.jsonl, line 2: not JSON",)),
    ("line that is a list", file_of("x.jsonl", b"[1]\n"), ("x.jsonl, line 1: must be a JSON object, got list",)),
    ("line nested too deeply", file_of("x.jsonl", b"[" * 100_000), ("x.jsonl, line 1: not JSON",)),
    ("not UTF-8", file_of("x.jsonl", b'{"prompt": "caf\xe9"}\n'), ("x.jsonl, line 1: not UTF-8 text",)),
    ("binary", file_of("x.jsonl", bytes(range(256))), ("x.jsonl, line 1: not",)),
    (
        "other columns",
        file_of("x.jsonl", line(text="one", good="a.png")),
        ("no column 'prompt'; there are text, good",),
    ),
    (
        "another kind",
        file_of("x.jsonl", line(prompt="a", items=["a.png"], rewards=[1])),
        ("look like data.kind: groups",),
    ),
    ("ties alone", file_of("x.jsonl", line(**PAIR, votes={"tie": 3})), ("x.jsonl: no usable pairs (1 ties, 0 bad",)),
    ("table cut off", file_of("x.parquet", TABLE[:-9]), ("x.parquet: not a readable parquet file",)),
    ("table of no bytes", file_of("x.parquet", b""), ("x.parquet: not a readable parquet file",)),
    ("table of text", file_of("x.parquet", b"prompt,chosen\n" * 9), ("x.parquet: not a readable parquet file",)),
    ("table with a damaged page", file_of("x.parquet", TABLE[:60] + b"\xff" * 40 + TABLE[100:]), ("x.parquet: not a",)),
    (
        "table of numbers",
        file_of("x.parquet", table({"prompt": [1], "chosen": [2], "rejected": [3]})),
        ("record 'row-0': column 'prompt' must be text", "got 1"),
    ),
    (
        "table of lists",
        file_of("x.parquet", table({"prompt": ["a"], "chosen": [[1, 2]], "rejected": [[3]]})),
        ("record 'row-0': column 'chosen' must be a picture's path or bytes, got list",),
    ),
    ("table of no rows", file_of("x.parquet", table({"prompt": []})), ("x.parquet: no usable pairs",)),
]


@pytest.mark.parametrize(("make", "says"), [row[1:] for row in SOURCES], ids=[row[0] for row in SOURCES])
def test_source(tmp_path, make, says):
    train(tmp_path, says, path=str(make(tmp_path)))


# ---------------------------------------------------------------- latents


def latents(home: Path, x0: torch.Tensor, rewards: torch.Tensor, numbers: list[int], autoencoder: str | None) -> Path:
    from tests.backbones.models import load

    about = {"autoencoder": autoencoder or load("sd").autoencoder_identity()}
    save_latents(home / "x.safetensors", x0, rewards, ["one", "two"], numbers, about)
    return home / "x.safetensors"


X0 = torch.zeros(2, 2, 4, 8, 8)
REWARDS = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
SPOILT = X0.clone()
SPOILT[1, 0, 0, 0, 0] = torch.nan

# name, latents, rewards, prompts, autoencoder, what the message says
LATENTS: list[tuple[str, torch.Tensor, torch.Tensor, list[int], str | None, tuple[str, ...]]] = [
    ("NaN", SPOILT, REWARDS, [0, 1], None, ("data.path: ", "latents of group 1 are not finite")),
    ("infinite reward", X0, REWARDS / 0, [0, 1], None, ("data.path: ", "rewards of group 0, 1 are not finite")),
    ("other size", X0[..., :4], REWARDS, [0, 1], None, ("data.path: ", "(4, 8, 4)", "(4, 8, 8)")),
    ("other channels", X0[:, :, :3], REWARDS, [0, 1], None, ("data.path: ", "(3, 8, 8)", "(4, 8, 8)")),
    (
        "no members",
        X0[:, 0],
        REWARDS,
        [0, 1],
        None,
        ("data.path: ", "latents must be [groups, members, ...]", "got (2, 4, 8, 8)"),
    ),
    ("rewards of others", X0, REWARDS[:1], [0, 1], None, ("data.path: ", "(2, 2, 4, 8, 8), (1, 2) and (2,)")),
    (
        "prompts of others",
        X0,
        REWARDS,
        [0],
        None,
        ("data.path: ", "prompt [groups], got (2, 2, 4, 8, 8), (2, 2) and (1,)"),
    ),
    ("no such prompt", X0, REWARDS, [0, 7], None, ("data.path: ", "not a readable preference set")),
    ("no groups", X0[:0], REWARDS[:0], [], None, ("no usable pairs: the file is empty",)),
    ("ties alone", X0, REWARDS * 0, [0, 1], None, ("no usable pairs: no two members of a group differ in reward",)),
    ("another autoencoder", X0, REWARDS, [0, 1], "other", ("made with another autoencoder than model.path has",)),
]


@pytest.mark.parametrize("case", LATENTS, ids=[row[0] for row in LATENTS])
def test_latents(tmp_path, case):
    path = latents(tmp_path, *case[1:5])
    train(tmp_path, case[5], path=str(path), resolution=None)


@pytest.mark.parametrize("content", [None, b"", b"nonsense" * 9], ids=["absent", "of no bytes", "nonsense"])
def test_latents_that_are_none(tmp_path, content):
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    says = ("data.path: ", "cannot be read: No such file" if content is None else "x.safetensors: not a readable")
    train(tmp_path, says, path=str(tmp_path / "x.safetensors"), resolution=None)


# ---------------------------------------------------------------- data and settings that do not fit


def test_mixed_sizes_of_latents_within_a_group_cannot_be(tmp_path):
    """Pictures of a group may have any size: each is cut to data.resolution."""
    folder = pairs_folder(tmp_path / "data")
    (folder / "1a.png").write_bytes(picture_file(7, size=(40, 24)))
    train(tmp_path, ("data.resolution: ", "got 18"), resolution=18)


def test_members_that_are_not_there(tmp_path):
    groups_folder(tmp_path / "data", [[1.0, 0.5], [1.0, None]])
    train(tmp_path, ("record 'g1': has 1 scored items, and data.members asks for 2",), kind="groups", members=2)


def test_all_bad_and_skipped(tmp_path):
    folder = pairs_folder(tmp_path / "data", 2)
    for picture in folder.glob("*a.png"):
        picture.unlink()
    file = settings_file(tmp_path, data={"path": str(folder), "resolution": 16, "on_bad": "skip"})
    refused(
        tmp_path,
        "train",
        "-c",
        file,
        says=("no usable pairs (0 ties, 2 bad rows; the first: record 'r0'",),
        may_cache=True,
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"", "no prompts in it"),
        (b"caf\xe9\n", "not UTF-8 text"),
        (b"\n\n", "no prompts in it"),
    ],
    ids=["absent", "empty", "latin-1", "blank"],
)
def test_prompts_of_the_evaluation(tmp_path, content, says):
    prompts = tmp_path / "prompts.txt"
    if content is not None:
        prompts.write_bytes(content)
    file = settings_file(tmp_path, {"evaluation.prompts": str(prompts)})
    refused(tmp_path, "train", "-c", file, says=(f"evaluation.prompts: {prompts}: {says}",))
