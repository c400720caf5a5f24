"""`diffalign export`: what was trained, in files that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffalign.cli.app import app, quiet_libraries


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run folder, or a LoRA's folder or .safetensors file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="What to write; for kohya it may end in .safetensors.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="diffusers, kohya (ComfyUI, A1111) or merged (a whole model).")
    ] = "diffusers",
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model of a LoRA that is of no run.")] = None,
    family: Annotated[str | None, typer.Option("--family", help="The family of --model.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of a merged model or kohya's file: fp32, bf16 or fp16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write what was trained for diffusers, ComfyUI or A1111, with a model card; the path is printed last."""
    quiet_libraries()
    from diffalign.cli.chosen_models import family_of
    from diffalign.cli.options import checked_precision
    from diffalign.training import export as write

    checked = checked_precision(precision)
    if model is not None:
        family = family_of(model, family)
    print(write(source, out, format, model=model, family=family, precision=checked, overwrite=overwrite))
