"""The models that `diffalign generate` is told to draw with: --model, --models, --run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from diffalign.cli.options import as_options, checked_precision
from diffalign.cli.processes import own_device
from diffalign.config.model import Family, Precision
from diffalign.exceptions import ConfigError
from diffalign.pipelines import DrawingModel, ImageGenerator
from diffalign.zoo import is_zoo, list_zoo, locate

_LONGEST = 60  # letters of a model in a file's name


def chosen_models(
    wishes: Mapping[str, Any],
    *,
    run: Sequence[Path],
    model: str | None,
    models: Sequence[str],
    family: str | None,
    adapter: Path | None,
    precision: str | None,
    device: str | None,
) -> list[DrawingModel]:
    """What `draw_models` is told of each; none is loaded yet, but what can be seen without is checked.

    Args:
        wishes: the settings of `ImageGenerator.create`, for all of them.
        run: run folders.
        model: one model, with its `family` and `adapter`.
        models: lists with commas; each item is a run folder or [FAMILY:]MODEL[+ADAPTER].
        family: of those that name none themselves.

    Raises:
        ConfigError: none or too much was given, or one of them cannot be had.
    """
    items = [item.strip() for text in models for item in text.split(",")]
    if (model is None) == (not run and not items):
        raise ConfigError("give either --run (the aligned model of a run folder) or --model, or --models for several")
    weights = checked_precision(precision)
    device = own_device(device)
    if adapter is not None and items:
        raise ConfigError("--adapter: goes with --model; in --models write MODEL+ADAPTER")
    if run and not items and (adapter is not None or family is not None):
        raise ConfigError("--run brings its own model and adapter; leave out --family and --adapter")
    chosen = [_of_run(wishes, folder, weights, device) for folder in run]
    if model is not None:
        chosen.append(_of_model(wishes, model, family, adapter, weights, device))
    for item in items:
        if (Path(item) / "config.yaml").is_file():
            chosen.append(_of_run(wishes, Path(item), weights, device))
            continue
        own, where, added = _taken_apart(item)
        chosen.append(_of_model(wishes, where, own or family, added, weights, device))
    return [chosen[0].model] if len(chosen) == 1 else _named(chosen)


def _taken_apart(item: str) -> tuple[str | None, str, Path | None]:
    """Family, model and adapter of [FAMILY:]MODEL[+ADAPTER]."""
    first, colon, rest = item.partition(":")
    family, where = (first, rest) if colon and first in get_args(Family) else (None, item)
    adapter = None
    if "+" in where and not Path(where).exists():
        where, _, added = where.rpartition("+")
        adapter = Path(added)
    if not where:
        raise ConfigError(
            f"--models: {item!r} names no model; write MODEL, FAMILY:MODEL or MODEL+ADAPTER, with commas between"
        )
    return family, where, adapter


class _Chosen(NamedTuple):
    """A model whose source ends with the name of its `place`, a run folder or adapter; None: the source is all there is."""

    model: DrawingModel
    place: Path | None

    def end(self, length: int) -> str:
        """So many parts of the place's path, from its end."""
        return "" if self.place is None else Path(*self.place.parts[-length:]).as_posix()


def _of_run(wishes: Mapping[str, Any], run: Path, precision: Precision | None, device: str | None) -> _Chosen:
    from diffalign.training.run import open_run

    def load() -> ImageGenerator:
        from diffalign.training import load_run

        with as_options({*wishes, "device"}):
            loaded = load_run(run, device=device, precision=precision)
            return ImageGenerator.create(loaded.backbone, like=loaded.generator, **wishes)

    place = run.resolve()
    return _Chosen(DrawingModel(load, "policy", place.name, run / open_run(run).model.result), place)


def _of_model(
    wishes: Mapping[str, Any],
    model: str,
    family: str | None,
    adapter: Path | None,
    precision: Precision | None,
    device: str | None,
) -> _Chosen:
    family = family_of(model, family)
    if is_zoo(model):
        locate(model)
    if adapter is not None and not adapter.exists():
        raise ConfigError(f"--adapter: no such file or folder: {adapter}")
    place = None if adapter is None else Path(os.path.abspath(adapter))
    source = model if place is None else f"{model}+{place.name}"
    load = partial(_load_model, wishes, family, model, adapter, precision or "fp32", device)
    return _Chosen(DrawingModel(load, "reference", source, adapter), place)


def _load_model(
    wishes: Mapping[str, Any], family: str, model: str, adapter: Path | None, precision: Precision, device: str | None
) -> ImageGenerator:
    from diffalign.training.build import build_inference

    with as_options(("model", "family", "device"), within="model."):
        backbone = build_inference(family, model, adapter, device, precision)
    with as_options(wishes):
        return ImageGenerator.create(backbone, **wishes)


def family_of(model: str, family: str | None) -> str:
    """The family that was given, or that of a model of the zoo.

    Raises:
        ConfigError: none was given, and the model is not of the zoo.
    """
    if family is not None:
        return family
    if not is_zoo(model):
        raise ConfigError(
            f"--family: say which family {model} is of (diffalign list families); in --models also as FAMILY:{model}"
        )
    cards = {item.name: item.card for item in list_zoo()}
    return str(cards[locate(model).name]["family"])


def _load_telling_which(model: DrawingModel) -> ImageGenerator:
    try:
        return model.load()
    except ConfigError as error:
        raise ConfigError(f"{error} (of several models this is {model.source})") from None


def _named(chosen: Sequence[_Chosen]) -> list[DrawingModel]:
    """With a source each, and a name for ids and file names: the end of what it is called.

    Every run keeps its LoRA as RUN/adapter: equal sources get as many of the folders before as tell them apart. One model
    that stands twice has one source, and a number in its name.
    """
    named: dict[str, DrawingModel] = {}
    for one in chosen:
        model, where = one.model, one.end(_length(one, chosen))
        base = model.source.removesuffix(one.end(1))
        end = base.rstrip("/").rpartition("/")[2] + where or model.source
        short = re.sub(r"[^A-Za-z0-9._]+", "-", end)[:_LONGEST].strip("-.") or "model"
        name, number = short, 1
        while name.lower() in named:  # some file systems do not tell A from a
            number += 1
            name = f"{short}-{number}"
        model = replace(model, name=name, source=base + where)
        named[name.lower()] = replace(model, load=partial(_load_telling_which, model))
    return list(named.values())


def _length(one: _Chosen, chosen: Sequence[_Chosen]) -> int:
    """How many parts of its place's path tell it from the others that are called alike."""
    alike = [each for each in chosen if each.model.source == one.model.source and each.place != one.place]
    length = 1
    while any(each.end(length) == one.end(length) for each in alike):
        length += 1
    return length
