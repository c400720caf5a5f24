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
    as_json: JsonOption = False,
) -> None:
    """Write a reference set: mean and covariance of features, with encoder, hashes, licence and source.

    Then `--reward frechet:reference=FILE,encoder=...` says how near a set comes to it. A set of texts judges pictures too,
    where the encoder has both in one space (clip).
    """
    quiet_libraries(["transformers"])
    from diffalign.cli.progress import drawing_bar
    from diffalign.cli.scoring import input_of
    from diffalign.evaluation import fit_set
    from diffalign.rewards import load_encoder, reference_facts

    made = load_encoder(encoder)
    with input_of(source) as found, drawing_bar(0, "encoded") as progress:
        done = fit_set(found, out, made, licence=licence, origin=origin, progress=progress)
    facts = reference_facts(done.file)
    if as_json:
        print(json.dumps({"file": str(done.file), **facts}, indent=2, ensure_ascii=False))
        return
    print(f"{done.samples} samples ({facts['of']}), encoder {facts['encoder']}, sha256 {facts['sha256'][:12]}")
    print(done.file)
