"""`diffalign rewards fit`: a reference set for the reward frechet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diffalign.cli.app import JsonOption, quiet_libraries
from diffalign.cli.rewards_app import rewards_app


@rewards_app.command()
def fit(
    source: Annotated[
        Path,
        typer.Option("--input", "-i", help="A folder, pattern or records as `score` takes them; or a .txt of texts."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file.")],
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="NAME[:option=value,...], as pixels or clip:model=FOLDER.")
    ] = "pixels",
    licence: Annotated[str, typer.Option("--licence", help="Of the samples; stands in the file.")] = "",
    origin: Annotated[str, typer.Option("--source", help="Where they come from; stands in the file.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a reference set: mean and covariance of features, with encoder, hashes, licence and source.

    Then `--reward frechet:reference=FILE` says how near a set comes to it. A set of texts judges pictures too,
    where the encoder has both in one space (clip).
    """
    quiet_libraries(["transformers"])
    from diffalign.cli.progress import drawing_bar
    from diffalign.cli.scoring import input_of
    from diffalign.evaluation import fit_set
    from diffalign.rewards import load_encoder, reference_facts
    from diffalign.rewards.media import MEDIA

    made = load_encoder(encoder)
    with input_of(source) as found, drawing_bar(0, "encoded") as progress:
        done = fit_set(found, out, made, licence=licence, origin=origin, overwrite=overwrite, progress=progress)
    facts = reference_facts(done.file)
    if as_json:
        print(json.dumps({"file": str(done.file), **facts}, indent=2, ensure_ascii=False))
        return
    names = {"text": "texts"} | {medium: each.several for medium, each in MEDIA.items()}
    of = f"{done.inputs} {names[facts['of']]}"
    frames = f"{done.samples} frames of " if facts["of"] == "audio" else ""
    print(f"{frames}{of}, encoder {facts['encoder']}, sha256 {facts['sha256'][:12]}")
    print(done.file)
