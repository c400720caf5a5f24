"""Memory and speed of the data room for sets of different sizes: each must need about as much memory as the smallest.

    python benchmarks/data_at_size.py                          # 10,000 and 1,000,000 groups of two
    python benchmarks/data_at_size.py --rows 2000 20000 --steps 50

The rows are a parquet file of tiny pictures, all different; a stub stands in the place of their decoding and of the
autoencoder, with latents [4, 2, 2]: what is measured is what diffalign adds. For every size, each in a process of its own:
`fill` reads all rows and writes the cache, `open` is a second run's start (up to the checks of all rewards and the hash of
all records), `train` reads batches of 32 groups at random. Memory is what the process has (RSS) and the part of it that is
no file (anonymous), at its highest, less what it had after its imports. A line of JSON per size and stage; the last
compares the sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from diffalign.data import (
    GroupData,
    PictureEncoding,
    ReadCounts,
    Source,
    TensorCache,
    Texts,
    TrainingOrder,
    encode_records,
    latents_of,
    open_list,
    read_records,
)
from diffalign.data.records import OpenedPicture

STAGES = ("fill", "open", "train")
PROMPTS = 1000
GROUPS = 32


def write_rows(path: Path, rows: int) -> None:
    """Pairs with rewards: each picture 8 pixels square, made of its own number."""
    schema = pa.schema([("prompt", pa.string()), ("items", pa.list_(pa.binary())), ("rewards", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, 10_000):
            numbers = range(first, min(first + 10_000, rows))
            table = {
                "prompt": [f"prompt {number % PROMPTS}" for number in numbers],
                "items": [[picture(2 * number), picture(2 * number + 1)] for number in numbers],
                "rewards": [[0.9, 0.1] for _ in numbers],
            }
            writer.write_table(pa.Table.from_pydict(table, schema=schema))


def picture(number: int) -> bytes:
    return b"P6 8 8 255\n" + number.to_bytes(8, "little") * 24


class TinyPictures(PictureEncoding):
    """Reads what `picture` wrote, without the 0.2 ms that a decoder takes."""

    def open(self, content: bytes, record: str, bucket: int) -> OpenedPicture:
        pixels = torch.frombuffer(bytearray(content[-192:]), dtype=torch.uint8).float().reshape(3, 8, 8) / 255
        return OpenedPicture(pixels, (8, 8), (8, 8), (0, 0), (0, 0, 8, 8))


def posterior(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    mean = torch.nn.functional.avg_pool2d(pictures, 4)
    mean = torch.cat([mean, mean[:, :1]], dim=1)
    return {"mean": mean, "log_variance": torch.full_like(mean, -10.0)}


def told(line: str) -> int:
    """Bytes of a line of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return next(int(each.split()[1]) * 1024 for each in status.splitlines() if each.startswith(line + ":"))


def maps() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


class Highest:
    """The highest memory while it runs, above what there was before; and the number of maps."""

    def __init__(self) -> None:
        self.rss = self.anonymous = self.maps = 0
        self._before = told("VmRSS"), told("RssAnon")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _look(self) -> None:
        self.rss = max(self.rss, told("VmRSS") - self._before[0])
        self.anonymous = max(self.anonymous, told("RssAnon") - self._before[1])
        self.maps = max(self.maps, maps())

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self._look()

    def __enter__(self) -> Highest:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()


def opened(home: Path) -> GroupData:
    encoding = TinyPictures("f", posterior, 8, batch=256)
    source = Source(home / "rows.parquet")
    records = open_list(home / "records.arrow", source.state())
    assert records is not None, "the list of records was not kept"
    latents = latents_of(records, TensorCache(home / "latents"), encoding, seed=0)
    assert next(latents.absent(), None) is None
    texts = Texts(TensorCache(home / "texts"), "t")
    texts.fill((prompt for _, prompt in records), encode_texts)
    return GroupData(records, latents, texts)


def encode_texts(prompts: list[str]) -> dict[str, torch.Tensor]:
    return {"states": torch.zeros(len(prompts), 2)}


def fill(home: Path, steps: int) -> None:
    counts, encoding, source = (
        ReadCounts(),
        TinyPictures("f", posterior, 8, batch=256),
        Source(home / "rows.parquet"),
    )
    encode_records(
        read_records(source, "groups", counts=counts),
        TensorCache(home / "latents"),
        encoding,
        seed=0,
        on_bad="error",
        counts=counts,
        path=home / "records.arrow",
        source=source.state(),
    )


def open_again(home: Path, steps: int) -> None:
    data = opened(home)
    assert data.content_hash
    assert all(bool((said.rewards >= 0).all()) for said in data.latents.said() if said.rewards is not None)


def train(home: Path, steps: int) -> float:
    data = opened(home)
    order = TrainingOrder(len(data), 0)
    started = time.perf_counter()
    for step in range(steps):
        data.batch([order.place(step * GROUPS + each) for each in range(GROUPS)])
    return steps * GROUPS / (time.perf_counter() - started)


def measure(stage: str, home: Path, rows: int, steps: int) -> dict[str, Any]:
    work: dict[str, Callable[[Path, int], Any]] = {"fill": fill, "open": open_again, "train": train}
    np.zeros(1), torch.zeros(1)
    with Highest() as highest:
        started = time.perf_counter()
        rate = work[stage](home, steps)
        seconds = time.perf_counter() - started
    found: dict[str, Any] = {
        "rows": rows,
        "stage": stage,
        "seconds": round(seconds, 2),
        "rss_mb": round(highest.rss / 1e6, 1),
        "anonymous_mb": round(highest.anonymous / 1e6, 1),
        "maps": highest.maps,
    }
    if stage == "fill":
        found["rows_per_second"] = round(rows / seconds)
        found["cache_files"] = sum(1 for _ in (home / "latents").iterdir())
    if stage == "train":
        found["groups_per_second"] = round(rate)
    return found


def stages(rows: int, steps: int, home: Path) -> Iterator[dict[str, Any]]:
    write_rows(home / "rows.parquet", rows)
    time.sleep(2.1)  # a file that has just been written is not relied on
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--home", str(home), "--rows", str(rows)]
        done = subprocess.run(
            [*command, "--steps", str(steps)], stdout=subprocess.PIPE, text=True, check=True, env=os.environ
        )
        yield json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=500, help="batches that are read in stage `train`")
    parser.add_argument("--stage", choices=STAGES, help="measure this stage alone, of what is in --home")
    parser.add_argument("--home", type=Path, help="where the rows are written; default: a temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage:
        print(json.dumps(measure(options.stage, options.home, options.rows[0], options.steps)))
        return
    found = []
    for rows in options.rows:
        home = Path(tempfile.mkdtemp(dir=options.home))
        try:
            for each in stages(rows, options.steps, home):
                print(json.dumps(each), flush=True)
                found.append(each)
        finally:
            shutil.rmtree(home)
    growth = {
        f"{stage}_{name}": round(last[name] - first[name], 1)
        for stage in STAGES
        for first, last in [[each for each in found if each["stage"] == stage][:: max(len(options.rows) - 1, 1)]]
        for name in ("rss_mb", "anonymous_mb", "maps")
    }
    print(json.dumps({"growth": growth, "from": options.rows[0], "to": options.rows[-1]}))


if __name__ == "__main__":
    main()
