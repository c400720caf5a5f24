"""What was trained in the formats that others read: diffusers, kohya (ComfyUI, A1111), or merged into the model."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

from diffalign.backbones import (
    FAMILIES,
    load_skeleton,
    put_adapter,
    replace_folder,
    write_adapter,
    write_kohya,
    write_pipeline,
)
from diffalign.config import RunConfig
from diffalign.config.model import ModelConfig, Precision
from diffalign.exceptions import ConfigError, SaveError
from diffalign.training.build import DTYPES, build_inference
from diffalign.training.model_card import TAG, adapter_card, model_card
from diffalign.training.result import gone_on, trained_steps
from diffalign.training.run import open_run

Format = Literal["diffusers", "kohya", "merged"]


def export(
    source: Path,
    out: Path,
    format: str,
    *,
    model: str | None = None,
    family: str | None = None,
    precision: Precision | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run's result, or a LoRA of any format that diffusers reads, for others; with a model card.

    - "diffusers": a folder that `pipe.load_lora_weights` reads.
    - "kohya": one .safetensors file for ComfyUI, A1111 and diffusers; in a folder, unless `out` ends in .safetensors.
    - "merged": the whole model with the LoRA added to its weights, a folder that `from_pretrained` reads.

    A run of full fine-tuning is a whole model already: "diffusers" and "merged" copy it.

    Args:
        source: a run folder, or a LoRA's folder or .safetensors file.
        out: what to write.
        format: one of these three.
        model, family: what a LoRA of no run is for, as in the config's section `model`.
        precision: of the merged model (None: that of the run's frozen weights, or fp32), or of kohya's file (None: the
            LoRA's own).
        overwrite: replace an earlier export; nothing else is ever replaced.

    Returns:
        The folder or file written.

    Raises:
        ConfigError: source, out, format or model cannot be used; nothing was written.
    """
    if format not in get_args(Format):
        close = difflib.get_close_matches(format, get_args(Format), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"--format: must be one of {', '.join(get_args(Format))}, got {format!r}{hint}")
    _check_out(out, source, cast(Format, format), overwrite=overwrite)
    if precision is not None and format == "diffusers":
        raise ConfigError("--precision: is of --format merged and kohya; diffusers' is written in the precision it has")
    of_run = (source / "config.yaml").is_file()
    if of_run:
        if model is not None or family is not None:
            raise ConfigError("--model and --family: a run brings its own; leave them out")
        config = open_run(source)
        result = source / config.model.result
        if not result.is_dir():
            raise ConfigError(f"{source} has no {result.name} yet: finish it with diffalign train --resume {source}")
        if (why := gone_on(source, config)) is not None:
            raise ConfigError(why)
        if config.model.train == "full":
            if precision is not None:
                raise ConfigError("--precision: is of a LoRA; a whole model is copied as it was trained")
            return _copy_model(config, source, out, format)
        return _export_lora(result, config.model, out, format, precision, (config, source))
    if not source.exists():
        raise ConfigError(f"no such run folder, adapter folder or file: {source}")
    if model is None or family is None:
        raise ConfigError(f"{source} is no run folder: say which model the LoRA is for with --model and --family")
    return _export_lora(source, ModelConfig(family=family, path=model), out, format, precision, None)


def _check_out(out: Path, source: Path, format: Format, *, overwrite: bool) -> None:
    """Whether `out` is free, or an earlier export that may be replaced.

    Raises:
        ConfigError: it is not.
    """
    if out.suffix == ".safetensors" and format != "kohya":
        raise ConfigError(f"--out: {format} is a folder, got the file {out}; only --format kohya is a file")
    inside = out.resolve()
    if inside == source.resolve() or source.resolve() in inside.parents or inside in source.resolve().parents:
        raise ConfigError(f"--out: {out} and {source} lie in one another; choose a place outside")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: no such folder: {out.parent}")
    beside = out.with_suffix(".md")
    if out.suffix == ".safetensors" and beside.exists() and not _is_ours(beside):
        raise ConfigError(f"--out: {beside}, where the model card goes, is a file of yours; choose another name")
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"--out: {out} exists; choose another name, or add --overwrite")
    if not _is_ours(beside if out.is_file() else out / "README.md"):
        raise ConfigError(
            f"--overwrite: {out} was not written by diffalign export (it has no card of ours); remove it yourself"
        )


def _is_ours(card: Path) -> bool:
    return card.is_file() and f"- {TAG}\n" in card.read_text(encoding="utf-8", errors="replace")


def _export_lora(
    adapter: Path,
    model: ModelConfig,
    out: Path,
    format: str,
    precision: Precision | None,
    run: tuple[RunConfig, Path] | None,
) -> Path:
    title = out.stem if out.suffix == ".safetensors" else out.name
    kind = {"diffusers": "lora", "kohya": "kohya", "merged": "model"}[format]
    card = adapter_card(model, kind, title) if run is None else model_card(*run, trained_steps(*run), kind, title)
    kind_of_model = FAMILIES[model.family]
    pipeline, part = kind_of_model.pipeline_class, kind_of_model.network_name
    if format == "merged":
        backbone = build_inference(
            model.family, model.path, adapter, "cpu", precision or model.precision, model.config, setting="source"
        )
        backbone.pipeline.fuse_lora()
        backbone.pipeline.unload_lora_weights()
        write_pipeline(out, backbone.pipeline, part, backbone.network, card)
        return out
    network = load_skeleton(model.family, model.path, config=model.config)
    put_adapter(network, pipeline, part, adapter, "policy", "source")
    if format == "diffusers":
        write_adapter(out, pipeline, part, network, "policy", card)
        return out
    more = {} if run is None else _facts(*run)
    dtype = None if precision is None else DTYPES[precision]
    if out.suffix == ".safetensors":
        _write_file(out, card, partial(write_kohya, out, model.family, network, "policy", title, more, dtype))
        return out
    with _drafted(out) as draft:
        draft.mkdir()
        write_kohya(draft / f"{title}.safetensors", model.family, network, "policy", title, more, dtype)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return out


def _write_file(out: Path, card: str, write: Callable[[], None]) -> None:
    """One file, and its card beside it: both or none.

    Raises:
        SaveError: they cannot be written.
    """
    draft = out.with_name(f".{out.stem}.md.partial")
    try:
        draft.write_text(card, encoding="utf-8")
        write()
        draft.replace(out.with_suffix(".md"))
    except OSError as error:
        raise (
            error
            if isinstance(error, SaveError)
            else SaveError(f"{out}: cannot be written ({error}); free some space and export again")
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def _facts(config: RunConfig, run: Path) -> dict[str, str]:
    """What sd-scripts tell of a training, by their names."""
    return {
        "ss_sd_model_name": Path(config.model.path).name,
        "ss_learning_rate": f"{config.optimizer.learning_rate:g}",
        "ss_optimizer": config.optimizer.name,
        "ss_max_train_steps": str(trained_steps(config, run)),
        "ss_seed": str(config.seed),
        "ss_training_comment": f"diffalign {config.objective.name}",
    }


def _copy_model(config: RunConfig, run: Path, out: Path, format: str) -> Path:
    if format == "kohya":
        raise ConfigError("--format: this run trained the whole network, so it has no LoRA; take diffusers")
    with _drafted(out) as draft:
        shutil.copytree(run / config.model.result, draft)
        (draft / "README.md").write_text(model_card(config, run, trained_steps(config, run)), encoding="utf-8")
    return out


@contextmanager
def _drafted(out: Path) -> Iterator[Path]:
    """A folder to be filled, which takes the place of `out` then.

    Raises:
        SaveError: it cannot be written; nothing is left of it.
    """
    draft = out.with_name(f".{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
        replace_folder(draft, out)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(f"{out}: cannot be written ({error}); free some space and export again") from None
