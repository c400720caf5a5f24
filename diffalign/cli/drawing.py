"""`diffalign generate`: from what stands on the command line to prompts, a model and a generator."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

from diffalign.cli.progress import drawing_bar
from diffalign.config.fields import is_text
from diffalign.config.model import Precision
from diffalign.data import read_prompts
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator, draw_pictures
from diffalign.zoo import is_zoo, list_zoo, locate


def draw(
    prompts: str, out: Path, model: Mapping[str, Any], wishes: Mapping[str, Any], *, seed: int, count: int
) -> None:
    """Draw pictures for prompts into `out`, with a bar on stderr and then how many were drawn.

    Args:
        prompts: a .txt, a .jsonl, a file of the zoo, or one prompt.
        model: the arguments of `_load`.
        wishes: the settings of `ImageGenerator.create`; None is the run's or the family's own.
        seed, count: as `draw_pictures` takes them.
    Raises:
        ConfigError, DataError: the model or the prompts cannot be used.
    """
    texts = _prompts(prompts)
    with _as_options(("model", "family", "device"), within="model."):
        generator, about = _load(wishes, **model)
    before = _stamps(out)
    with _as_options({*wishes, "out"}), drawing_bar(len(texts) * count) as progress:
        rows = draw_pictures(generator, texts, out, seed=seed, count=count, progress=progress, **about)
    after = _stamps(out)
    kept = sum(before.get(name) == after[name] for name in (str(row["file_name"]) for row in rows))
    print(f"pictures: {len(rows) - kept} drawn, {kept} there already", file=sys.stderr)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a picture is written, even within a tick of the clock: its inode and its time."""
    found = ((path.name, path.stat()) for path in folder.glob("*.png"))
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


def _prompts(source: str) -> list[str]:
    if is_zoo(source):
        try:
            return read_prompts(locate(source))
        except ConfigError as error:
            raise ConfigError(f"--prompts: {error}") from None
    if source.endswith((".txt", ".jsonl")):
        return read_prompts(Path(source))
    if not source.strip():
        raise ConfigError("--prompts: empty; give a prompt, a .txt, a .jsonl or zoo://NAME/held_out")
    if not is_text(source):
        raise ConfigError(f"--prompts: not UTF-8 text, got {source!r:.100}")
    return [source]


def _load(
    wishes: Mapping[str, Any],
    *,
    run: Path | None,
    model: str | None,
    family: str | None,
    adapter: Path | None,
    precision: str | None,
    device: str | None,
) -> tuple[ImageGenerator, dict[str, Any]]:
    """The generator, and what `draw_pictures` is told of the model."""
    if (run is None) == (model is None):
        raise ConfigError("give either --run (the aligned model of a run folder) or --model")
    weights = checked_precision(precision)
    from diffalign.training import load_run
    from diffalign.training.build import build_inference

    if run is not None:
        if adapter is not None or family is not None:
            raise ConfigError("--run brings its own model and adapter; leave out --family and --adapter")
        loaded = load_run(run, device=device, precision=weights)
        about = {"view": loaded.view, "source": run.resolve().name, "adapter": run / loaded.config.model.result}
        with _as_options(wishes):
            return ImageGenerator.create(loaded.backbone, like=loaded.generator, **wishes), about
    assert model is not None
    family = family_of(model, family)
    backbone = build_inference(family, model, adapter, device, weights or "fp32")
    source = model if adapter is None else f"{model}+{adapter.name}"
    with _as_options(wishes):
        generator = ImageGenerator.create(backbone, **wishes)
    return generator, {"view": "reference", "source": source, "adapter": adapter}


def checked_precision(precision: str | None) -> Precision | None:
    """The option's value.

    Raises:
        ConfigError: there is no such precision.
    """
    if precision not in (None, *get_args(Precision)):
        close = difflib.get_close_matches(str(precision), get_args(Precision), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"--precision: must be one of {', '.join(get_args(Precision))}, got {precision!r}{hint}")
    return cast("Precision | None", precision)


def family_of(model: str, family: str | None) -> str:
    """The family that was given, or that of a model of the zoo.

    Raises:
        ConfigError: none was given, and the model is not of the zoo.
    """
    if family is not None:
        return family
    if not is_zoo(model):
        raise ConfigError(f"--family: say which family {model} is of (diffalign list families)")
    cards = {item.name: item.card for item in list_zoo()}
    return str(cards[locate(model).name]["family"])


@contextmanager
def _as_options(names: Collection[str], within: str = "") -> Iterator[None]:
    """What an error says of an argument, or of a setting of the section `within`, is said of the option of that name."""
    try:
        yield
    except ConfigError as error:
        setting, _, text = str(error).partition(": ")
        name = {"model.path": "model"}.get(setting, setting.removeprefix(within))
        if name not in names:
            raise
        raise ConfigError(f"--{name.replace('_', '-')}: {text}") from None
