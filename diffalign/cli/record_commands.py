"""The commands that make records: `generate`, `score`, `pair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffalign.cli.app import JsonOption, app, is_first_process, quiet_libraries


@app.command()
def generate(
    prompts: Annotated[
        list[str],
        typer.Option(
            "--prompts", "-p", help="A .txt or .jsonl of prompts, zoo://NAME/held_out, or one prompt. Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures and metadata.jsonl.")],
    run: Annotated[
        list[Path] | None, typer.Option("--run", help="Draw with the aligned model of this run folder. Repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Draw with this model: zoo://NAME, a folder or a hub id.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            help="Draw with several, with commas between: run folders, or [FAMILY:]MODEL[+ADAPTER]. "
            "The records' column source says which drew a picture.",
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="The model's family; needed with --model unless it is from the zoo.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="A LoRA folder or file to load into --model.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Sampling steps; the family's own if left out.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", min=0.0, help="1 is the conditional branch alone.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="One of `diffalign list samplers`; the family's own if left out.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", min=0.0, max=1.0, help="Noise of ddim (0 is none) and of flow_sde.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", min=1, help="Pixels along a side; the model's own if left out.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Of the weights: fp32, bf16 or fp16.")] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the first picture; the next has the next seed.")
    ] = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures per prompt.")] = 1,
    best_of: Annotated[
        int, typer.Option("--best-of", min=1, help="Draw so many for each picture, and keep the best by --reward.")
    ] = 1,
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", help="What --best-of goes by: NAME[:option=value,...]. Of several, their mean. Repeatable."
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures at a time.")] = 16,
    device: Annotated[str | None, typer.Option("--device", help="cuda, mps or cpu.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove pictures of other prompts or settings that are there.")
    ] = False,
) -> None:
    """Draw pictures for prompts; writes PNGs and records (metadata.jsonl). Pictures that are there are kept.

    The same call again goes on where it was cut off; a call with other prompts or settings is refused, or --overwrite.

    With --run, the run's own sampler, steps, guidance, resolution and precision are taken where none is given here.
    Under torchrun, or with RANK and WORLD_SIZE set, each process draws its share; the last to finish writes metadata.jsonl.
    """
    quiet_libraries()
    from diffalign.cli.drawing import draw

    draw(
        prompts,
        out,
        {
            "run": run or (),
            "model": model,
            "models": models or (),
            "family": family,
            "adapter": adapter,
            "precision": precision,
            "device": device,
        },
        {
            "sampler": sampler,
            "steps": steps,
            "eta": eta,
            "guidance_scale": guidance_scale,
            "resolution": resolution,
            "batch": batch,
        },
        seed=seed,
        count=count,
        best_of=best_of,
        rewards=rewards or (),
        overwrite=overwrite,
    )
    if is_first_process():
        print(out)


@app.command()
def score(
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            help="What generate wrote; a folder, .jsonl or .parquet of records; a folder of pictures, sounds, "
            "videos or meshes; a pattern in quotes, as 'drawn/*.png'; or - for records or paths on stdin, one a line.",
        ),
    ],
    rewards: Annotated[
        list[str], typer.Option("--reward", "-r", help="NAME[:option=value,...], as scene:form=graded. Repeatable.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A .jsonl, .parquet or .csv; scores that it holds are not made again. INPUT-scores.parquet if left out.",
        ),
    ] = None,
    no_file: Annotated[bool, typer.Option("--no-file", help="Print, and keep nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let go of what the file holds beside: other inputs, rewards, prompts.")
    ] = False,
    prompt: Annotated[str, typer.Option("--prompt", help="Of what has none.")] = "",
    by: Annotated[
        str | None, typer.Option("--by", help="Of rewards of sets: a column, whose every value is a set too.")
    ] = None,
    components: Annotated[bool, typer.Option("--components", help="Also write what each reward is made of.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures at a time.")] = 16,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Share the work among so many.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Score pictures, sounds, videos or meshes by rewards: one row each, a column a reward; null, and why, where unscored.

    Rewards of sets (vendi, frechet) say one number of all together, which is printed. The same call again goes on where
    it was cut off. Under torchrun, or with RANK and WORLD_SIZE set, each process scores its share; the last one writes.

    Exit code 1 when nothing at all has a score.
    """
    from diffalign.cli.scoring import score_pictures

    scored = score_pictures(
        source,
        out,
        rewards,
        components=components,
        batch=batch,
        as_json=as_json,
        prompt=prompt,
        by=by,
        processes=processes,
        keep=not no_file,
        overwrite=overwrite,
    )
    if not scored:
        raise typer.Exit(1)


@app.command()
def pair(
    source: Annotated[
        Path, typer.Option("--input", "-i", help="What score wrote; with --votes also what generate wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .jsonl, a .parquet, or a folder (its metadata.jsonl).")],
    kind: Annotated[
        str, typer.Option("--kind", "-k", help="pairs, groups, labelled, or experts: the best of all as labelled good.")
    ] = "pairs",
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", "-r", help="A column, or COLUMN=WEIGHT. Repeatable; the only one there is if left out."
        ),
    ] = None,
    aggregate: Annotated[
        str,
        typer.Option(
            "--aggregate",
            help="Several rewards as one: sum (weighted, each standardised), votes (share of rivals beaten), "
            "pareto (better in none worse).",
        ),
    ] = "sum",
    votes: Annotated[Path | None, typer.Option("--votes", help="What people said: annotate's votes.jsonl.")] = None,
    every: Annotated[
        bool, typer.Option("--all-pairs", help="Of kind pairs: all of a prompt; else the best with the worst.")
    ] = False,
    margin: Annotated[float, typer.Option("--margin", help="Of kind pairs: the least gap in reward.")] = 0.0,
    smooth: Annotated[
        str | None,
        typer.Option("--smooth", help="LOW,HIGH: rewards that count as 0 and 1 for soft preferences, for smpo."),
    ] = None,
    good: Annotated[float | None, typer.Option("--good", help="Of kind labelled: good from this reward on.")] = None,
    bad: Annotated[float | None, typer.Option("--bad", help="Of kind labelled: bad down from this reward.")] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="Of kind labelled: this share is good, and as many are bad.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Of kind experts: how many; 500 if left out.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn among equals.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make records that train reads of rewards or votes. Nobody wins a tie; what is left out is counted."""
    from diffalign.cli.pairing import make_records

    settings = {"votes": votes, "every": every, "margin": margin, "good": good, "bad": bad, "share": share, "top": top}
    make_records(
        source,
        out,
        kind,
        rewards or (),
        aggregate,
        smooth,
        settings | {"seed": seed},
        overwrite=overwrite,
        as_json=as_json,
    )
