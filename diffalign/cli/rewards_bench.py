"""`diffalign rewards bench`: how well rewards agree with comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from diffalign.cli.app import JsonOption, quiet_libraries
from diffalign.cli.rewards_app import rewards_app


@rewards_app.command()
def bench(
    rewards: Annotated[
        list[str], typer.Option("--reward", "-r", help="NAME[:option=value,...], as scene:form=graded. Repeatable.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--input", "-i", help="Comparisons: a folder, .jsonl, .parquet, hf://OWNER/NAME, or zoo://NAME/preferences."
        ),
    ],
    kind: Annotated[
        str, typer.Option("--kind", "-k", help="pairs, or groups: all pairs of a record's items, by their rewards.")
    ] = "pairs",
    dimension: Annotated[
        str, typer.Option("--dimension", "-d", help="One of the column preferences; overall is what the others say.")
    ] = "overall",
    margin: Annotated[
        float, typer.Option("--margin", min=0.0, help="Of kind groups: rewards no further apart are a tie.")
    ] = 0.0,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Differences are divided by it to be log-odds; fitted if left out."),
    ] = None,
    held_out_of: Annotated[
        Path | None,
        typer.Option("--held-out-of", help="Only prompts that this run of task: reward has kept from training."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many records.")] = None,
    split: Annotated[str, typer.Option("--split", help="Of a Hugging Face dataset.")] = "train",
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the calibration plot: a .png or .svg.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples at a time.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Compare rewards with what people, or another reward, said of pairs: accuracy with and without ties, calibration."""
    quiet_libraries()
    from diffalign.cli.console import results_console
    from diffalign.cli.options import one_of
    from diffalign.cli.progress import drawing_bar
    from diffalign.data.row_files import make_folder
    from diffalign.evaluation import bench_reward
    from diffalign.exceptions import ConfigError
    from diffalign.reports import bench_lines, bench_table, check_plot, save_calibration_plot
    from diffalign.rewards import reward_of_text
    from diffalign.rewards.media import MEDIA
    from diffalign.training.comparison_source import kept_from, open_comparisons

    if len(set(rewards)) < len(rewards):
        raise ConfigError(f"--reward: the same stands twice in {', '.join(rewards)}")
    if temperature is not None and not temperature > 0:
        raise ConfigError(f"--temperature: must be > 0, got {temperature}")
    if plot is not None:
        check_plot(plot)
        make_folder(plot.parent, "--plot")
    chosen = one_of("--kind", kind, ("pairs", "groups"))
    if margin and chosen == "pairs":
        raise ConfigError("--margin: is of --kind groups, whose items have rewards; leave it out")
    made = {text: reward_of_text(text) for text in rewards}
    wanted, cache = (None, Path("runs") / "cache") if held_out_of is None else kept_from(held_out_of)
    with drawing_bar(0, "decoded") as progress:
        records = open_comparisons(
            source,
            chosen,
            dimensions=(dimension,),
            margin=margin,
            split=split,
            limit=limit,
            wanted=wanted,
            on_bad="error",
            cache=cache if cache.is_dir() else None,
            progress=progress,
        )
    if not records:
        raise ConfigError(f"--held-out-of: {source} has none of the prompts that {held_out_of} kept from its training")
    found = []
    for text, reward in made.items():
        with drawing_bar(0, "scored", MEDIA[reward.spec.media].several) as progress:
            found.append(
                bench_reward(
                    text,
                    reward,
                    records,
                    dimension=dimension,
                    temperature=temperature,
                    batch=batch,
                    progress=progress,
                ).as_dict()
            )
    if plot is not None:
        save_calibration_plot(plot, found)
    if as_json:
        print(json.dumps({"input": source, "dimension": dimension, "rewards": found}, indent=2, ensure_ascii=False))
        return
    results_console().print(bench_table(found))
    for line in bench_lines(found):
        results_console().print(Text(line, style="yellow"))
    if plot is not None:
        print(plot)
