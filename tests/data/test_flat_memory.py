"""Memory does not grow with the data; benchmarks/data_at_size.py measures it for a million records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "data_at_size.py"
READER = """
import sys, threading
from pathlib import Path
from diffalign.data import read_records
def told():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before, highest, count = told(), 0, 0
for record in read_records(Path(sys.argv[1])):
    count += 1
    if count % 16 == 0:
        highest = max(highest, told() - before)
print(count, highest * 1024)
"""


def peak_of_reading(path: Path) -> tuple[int, int]:
    """Records, and bytes of memory that are no file at most."""
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    return count, peak


@pytest.mark.parametrize("group", [20, 2000], ids=["many-row-groups", "one-row-group"])
def test_parquet_is_streamed_whatever_its_row_groups(tmp_path, group):
    """200 MB of pictures' bytes; a batch of rows has 3 MB of them."""
    random, path = np.random.default_rng(0), tmp_path / "x.parquet"
    schema = pa.schema([("prompt", pa.string()), ("chosen", pa.binary()), ("rejected", pa.binary())])
    pages = {"write_batch_size": 8}  # small ones: a page is read whole
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, **pages) as writer:
        for _ in range(2000 // group):
            blobs = [random.bytes(50_000) for _ in range(2 * group)]
            table = {"prompt": ["p"] * group, "chosen": blobs[:group], "rejected": blobs[group:]}
            writer.write_table(pa.Table.from_pydict(table, schema=schema), row_group_size=group)
    count, peak = peak_of_reading(path)
    assert count == 2000
    assert peak < 60e6, peak


def measured(rows: list[int]) -> list[dict[str, Any]]:
    command = [sys.executable, str(BENCHMARK), "--rows", *map(str, rows), "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_ten_times_the_records_need_no_more_memory():
    *stages, last = measured([2000, 20_000])
    assert [stage["stage"] for stage in stages] == 2 * ["fill", "open", "train"]
    growth = last["growth"]
    assert growth["open_anonymous_mb"] < 15 and growth["train_anonymous_mb"] < 15, growth
    assert growth["fill_anonymous_mb"] < 60 and growth["train_maps"] < 140, growth
