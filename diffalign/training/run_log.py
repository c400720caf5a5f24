"""What a run writes while it goes: the run folder, metrics.jsonl, and the progress bar."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from io import FileIO
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from diffalign.config import AnyConfig, RunConfig, save_config, with_absolute_paths
from diffalign.exceptions import ConfigError, MissingExtraError, SaveError

_PACKAGES = ("diffalign", "torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "pillow")
_SHOWN = (  # metric, label, format
    ("loss", "loss", "{:.4f}"),
    ("round_reward", "reward", "{:.4f}"),  # of an online run
    ("margin", "margin", "{:+.3f}"),
    ("pair_accuracy", "acc", "{:.2f}"),  # each method logs one of the four
    ("label_accuracy", "acc", "{:.2f}"),
    ("group_accuracy", "acc", "{:.2f}"),
    ("accuracy", "acc", "{:.2f}"),
    ("winner_error", "win err", "{:.4f}"),
    ("loser_error", "lose err", "{:.4f}"),
)
_PACE = (("seconds_per_step", "s/step", "{:.2f}"),)
_PACE_STEPS = 50  # the last ones, whose mean the time left is made of


def make_run_folder(config: AnyConfig) -> Path:
    """Make `folder/NAME-TIME` with the resolved config (local paths made absolute) and the environment in it.

    Raises:
        ConfigError: the folder cannot be made.
        SaveError: it cannot be written in; there is none.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    home = Path(config.folder)
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        folder = home / f"{config.name}-{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"folder: cannot make {folder}: {error.strerror}; choose another with --set folder=..."
            ) from None
        try:
            save_config(with_absolute_paths(config), folder / "config.yaml")
            write_json(folder / "environment.json", describe_environment())
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise SaveError(f"folder: cannot write in {folder}: {error.strerror}; free some space") from None
        return folder
    raise ConfigError(f"folder: {home} already has 999 runs named {config.name}-{stamp}")


def check_folder(config: AnyConfig) -> None:
    """Find out before anything is loaded whether run folders can be made; makes nothing.

    Raises:
        ConfigError: they cannot.
    """
    home = Path(config.folder)
    there = next(path for path in (home, *home.resolve().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"folder: {there} is a file; choose another with --set folder=...")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"folder: {there} cannot be written; choose another with --set folder=...")


def describe_environment() -> dict[str, Any]:
    """Versions and hardware, for the run folder and `diffalign doctor`."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file or none of it."""
    _write_whole(path, json.dumps(content, indent=2) + "\n")


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_text(text)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class MetricsLog:
    """Appends one JSON object a line to metrics.jsonl."""

    def __init__(self, run: Path, *, resume_step: int | None = None, enabled: bool = True) -> None:
        """Start the file; with `resume_step`, rows of later steps alone are dropped: they will be written again."""
        self.path = run / "metrics.jsonl"
        self._file: FileIO | None = None
        if not enabled:  # of several processes, one writes
            return
        kept = [] if resume_step is None else [row for row in read_rows(self.path) if row["step"] <= resume_step]
        _write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("ab", buffering=0)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append a row; a number that is not finite (fp16's first gradient norms) becomes null, as JSON has it."""
        if self._file is None:
            return
        plain = {
            key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values.items()
        }
        line = (json.dumps({"event": event, "step": step, **plain}) + "\n").encode()
        if self._file.write(line) != len(line):  # the disk is full: the next write would say so, after half a line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def check_trackers(config: RunConfig) -> None:
    """Find out whether the trackers that are asked for are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for package in config.log.trackers:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"log.trackers: needs '{package}'; install it with: pip install 'diffalign[trackers]', or leave it out "
                "(metrics.jsonl is always written)"
            )


class Trackers:
    """TensorBoard and Weights & Biases, where asked for."""

    def __init__(self, config: RunConfig, run: Path, *, resume_step: int | None = None, enabled: bool = True) -> None:
        """Start them; with `resume_step`, what was written of later steps is dropped, as in metrics.jsonl."""
        self._writer: Any = None
        self._wandb: Any = None
        if not enabled:
            return
        check_trackers(config)
        if "tensorboard" in config.log.trackers:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(run / "tensorboard"), purge_step=0 if resume_step is None else resume_step + 1
            )
        if "wandb" in config.log.trackers:
            import wandb

            self._wandb = wandb.init(
                project="diffalign", name=run.name, id=run.name, resume="allow", config=config.model_dump(mode="json")
            )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


class _Bar(Progress):
    """A bar, and the figures in a line of their own under it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["figures"], style="cyan", no_wrap=True, overflow="ellipsis")


class ProgressReport:
    """A bar on a terminal; about twenty lines in a log file."""

    def __init__(self, total: int, start: int, *, enabled: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = enabled and self._console.is_terminal
        self._enabled = enabled
        self._total = total
        self._moments = deque([(start, time.monotonic())], maxlen=_PACE_STEPS + 1)
        self._every = max(1, total // 20)
        self._bar = _Bar(
            TextColumn("step"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("ETA {task.fields[left]}"),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("training", total=total, completed=start, figures="", pace="", left="-")

    @contextmanager
    def __call__(self) -> Iterator[ProgressReport]:
        with self._bar:
            yield self

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        self._moments.append((step, time.monotonic()))
        left = self._seconds_left(step)
        if self._live:
            minutes, seconds = divmod(round(left), 60)
            self._bar.update(
                self._task,
                completed=step,
                figures=_figures(metrics, _SHOWN),
                pace=_figures(metrics, _PACE),
                left=f"{minutes // 60}:{minutes % 60:02}:{seconds:02}",
            )
        elif self._enabled and (step % self._every == 0 or step in (1, self._total)):
            line = f"step {step}/{self._total}  {_figures(metrics, _SHOWN + _PACE)}  ETA {left:.0f}s"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _seconds_left(self, step: int) -> float:
        """By the clock over the last steps, with the pictures and checkpoints between them; one step alone jumps."""
        (first, since), (last, now) = self._moments[0], self._moments[-1]
        return (self._total - step) * (now - since) / max(last - first, 1)


def _figures(metrics: Mapping[str, float], shown: Sequence[tuple[str, str, str]]) -> str:
    return "  ".join(f"{label} {form.format(metrics[name])}" for name, label, form in shown if name in metrics)
