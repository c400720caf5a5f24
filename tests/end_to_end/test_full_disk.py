"""A disk that is full, by the limit that the kernel puts on a file's size: one message, and nothing half-written."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from diffalign.data.cache import TensorCache
from diffalign.training import train
from tests.cli.conftest import CHECKOUT
from tests.data.pictures import pairs_folder
from tests.end_to_end.bad_input import call, check_refusal, settings_file, tree
from tests.training.tiny import adapter, assert_equal, rows, tiny


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside, a file grows to so many bytes, and the next one is an OSError (EFBIG)."""
    no_bytecode = mock.patch.object(
        sys, "dont_write_bytecode", True
    )  # or the limit would cut what is imported meanwhile
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with no_bytecode:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def hidden(home: Path) -> list[Path]:
    return [path for path in home.rglob(".*")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures and their filled caches, so that what fails first is what a test is about; and the whole run."""
    home = tmp_path_factory.mktemp("disk")
    settings = config(home)
    time.sleep(2.1)  # pictures that were written just now are read again by the next run, and listed anew
    return home, train(settings, progress=False).folder


def config(home: Path, **training: int):
    return tiny(home, **sections(home, **training))


def sections(home: Path, **training: int) -> dict:
    folder = home / "data"
    if not folder.exists():  # files that are written again are read again
        pairs_folder(folder)
    data = {"path": str(folder), "resolution": 16, "cache": str(home / "cache")}
    return {"data": data, "training": {"steps": 4, "groups": 1, "checkpoint_every": 2} | training}


def test_cache_of_latents(tmp_path):
    file = settings_file(tmp_path, **sections(tmp_path))
    before = tree(tmp_path)
    with largest_file(2000):
        seen = call("train", "-c", file)
    check_refusal(seen, ("data.cache: cannot write in", "latents-", "File too large"), code=2)
    after = tree(tmp_path)
    assert {name for name in after.keys() - before.keys() if after[name] != "folder"} == set()
    assert before.items() <= after.items()
    assert call("train", "-c", file).code == 0  # with room again


def test_run_folder_itself(cache, tmp_path):
    """No room for config.yaml: there is no run folder then."""
    home, _ = cache
    file = settings_file(tmp_path, **sections(home) | {"folder": str(tmp_path / "runs")})
    with largest_file(500):
        seen = call("train", "-c", file)
    check_refusal(seen, ("folder: cannot write in", "File too large; free some space"), code=1)
    assert list((tmp_path / "runs").iterdir()) == []


# limit in bytes, what of the run does not fit, what the message says
LIMITS = [
    pytest.param(10_000, "step-2: cannot be written", id="checkpoint's weights"),
    pytest.param(120_000, "step-2: cannot be written", id="checkpoint's optimizer"),
]


@pytest.mark.parametrize(("limit", "says"), LIMITS)
def test_checkpoint(cache, tmp_path, limit, says):
    home, whole = cache
    file = settings_file(tmp_path, **sections(home) | {"folder": str(tmp_path / "runs")})
    with largest_file(limit):
        seen = call("train", "-c", file)
    check_refusal(seen, (says, "free some space and go on with diffalign train --resume"), code=1)
    (run,) = (tmp_path / "runs").iterdir()
    assert hidden(run) == []
    assert [row["step"] for row in rows(run)] == [1, 2]
    seen = call("train", "--resume", run)
    assert seen.code == 0, seen.err
    assert_equal(adapter(run), adapter(whole))


def test_metrics(cache, tmp_path):
    """The log is full in the middle of a line; the run goes on, and each step is told once."""
    home, _ = cache
    parts = sections(home, steps=16, checkpoint_every=100) | {"folder": str(tmp_path / "runs")}
    parts["model"] = {"lora": {"rank": 1, "alpha": 1, "targets": ["proj_in"]}}
    limit = 3100  # bytes
    with largest_file(limit):
        seen = call("train", "-c", settings_file(tmp_path, **parts))
    check_refusal(
        seen, ("cannot be written (No space left on device) at step", "go on with diffalign train --resume"), code=1
    )
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "metrics.jsonl").stat().st_size == limit
    seen = call("train", "--resume", run)
    assert seen.code == 0, seen.err
    assert [row["step"] for row in rows(run)] == list(range(1, 17))


def test_adapter_and_comparison(cache, tmp_path):
    """All is trained and saved in checkpoints; the adapter, and then the comparison, have no room."""
    home, _ = cache
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n" * 3, encoding="utf-8")
    evaluation = {"prompts": str(prompts), "sampler": {"name": "ddim", "steps": 1}}
    parts = sections(home) | {"folder": str(tmp_path / "runs"), "evaluation": evaluation}
    seen = call("train", "-c", settings_file(tmp_path, **parts))
    assert seen.code == 0, seen.err
    (run,) = (tmp_path / "runs").iterdir()
    before = tree(run)
    for limit, words, says in (
        (100, ("eval", run), "evaluation: cannot be written (File too large); free some space and compare again"),
        (5000, ("report", run), "report.html cannot be written: File too large; free some space"),
        (
            100,
            ("generate", "-p", "a red circle", "-o", tmp_path / "out", "--run", run),
            "File too large; free some space",
        ),
    ):
        with largest_file(limit):
            seen = call(*words)
        check_refusal(seen, (says,), code=2 if words[0] == "report" else 1)
        assert tree(run) == before
        assert hidden(tmp_path) == []
    seen = call("generate", "-p", "a red circle", "-o", tmp_path / "out", "--run", run)
    assert seen.code == 0, seen.err
    assert "pictures: 1 drawn, 0 there already" in seen.err


def test_adapter(cache, tmp_path, monkeypatch):
    home, _ = cache
    done = train(config(home, steps=2), progress=False)
    before = tree(done.folder)
    from diffalign.exceptions import SaveError

    with largest_file(5000), pytest.raises(SaveError, match="adapter: cannot be written"):
        done.backbone.save_adapter(done.folder / "adapter")
    assert tree(done.folder) == before


def test_bank_of_reference_errors(cache, tmp_path):
    home, _ = cache
    parts = sections(home, reference_bank=1) | {"folder": str(tmp_path / "runs")}
    parts["data"] = parts["data"] | {"cache": str(tmp_path / "cache")}
    assert call(
        "train", "-c", settings_file(tmp_path, **sections(home) | {"data": parts["data"], "folder": "/proc/no"})
    )
    before = tree(tmp_path)
    file = settings_file(tmp_path, **parts)
    with largest_file(90):
        seen = call("train", "-c", file)
    check_refusal(seen, ("data.cache: ", "reference-", "cannot be written"), code=1)
    assert hidden(tmp_path) == []
    assert not (tmp_path / "runs").exists()
    assert {name for name in tree(tmp_path) if name not in before} <= {
        name for name in tree(tmp_path) if "refer" in name
    }


def test_as_a_process_of_its_own(cache, tmp_path):
    """The true exit code, and no traceback on the way out of the interpreter."""
    home, _ = cache
    file = settings_file(tmp_path, **sections(home) | {"folder": str(tmp_path / "runs")})
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); from diffalign.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "-c", str(file)],
        env={
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": "/usr/bin",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\nerror: ") == 1
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert len(TensorCache(next((home / "cache").glob("latents-*")))) == 6
    assert hidden(run) == []
