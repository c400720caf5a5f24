"""A folder of pictures and their records: drawn from prompts, and gone on with where an earlier call was cut off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines.best_of_n import BestOf
from diffalign.pipelines.generate import ImageGenerator, check_texts
from diffalign.pipelines.picture_folder import PictureFolder
from diffalign.pipelines.pictures import save_bytes, save_picture, to_picture
from diffalign.pipelines.shapes import glb_of_grid, is_grid
from diffalign.samplers import Sampler


@dataclass(frozen=True)
class DrawingModel:
    """A model as `draw_models` takes it.

    Attributes:
        load: makes the generator; called when the model's turn comes, so that one model is in memory at a time.
        view: which of the backbone's networks draws: "policy", "ema", "reference".
        source: what the records call the model.
        adapter: the file or folder of the LoRA that the view has; its hash goes into the records, so that pictures
            of an adapter that was since written anew are drawn again.
        name: what ids and file names have behind the number, so that models do not overwrite each other's pictures.
    """

    load: Callable[[], ImageGenerator]
    view: str = "policy"
    source: str = ""
    adapter: Path | None = None
    name: str = ""


@dataclass(frozen=True)
class Drawn:
    """What a call of `draw_models` did.

    Attributes:
        rows: the records, those of one prompt together: id, file_name, prompt, seed, source, adapter, and the settings of
            the generator.
        drawn: how many pictures were drawn by this process.
        there: how many of its share were there already.
        complete: whether all records are listed; not so before the last of several processes has finished.
    """

    rows: list[dict[str, object]]
    drawn: int
    there: int
    complete: bool


def draw_pictures(
    generator: ImageGenerator,
    prompts: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    count: int = 1,
    view: str = "policy",
    source: str = "",
    adapter: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, object]]:
    """Draw `count` pictures for every prompt into `out`, and list them in its metadata.jsonl.

        run = diffalign.training.load_run(Path("runs/quickstart-..."))
        draw_pictures(run.generator, ["a red circle"], Path("out"), source=run.folder.name, adapter=run.folder / "adapter")

    A picture that is listed already, drawn from the same prompt and seed with the same settings, is kept; so a call that
    was cut off, however roughly, is finished by calling again, with the same result.

    Args:
        generator: the model and how it is sampled.
        out: the folder; made if need be.
        seed: of the first picture; the next one has the next seed.
        count: pictures per prompt.
        view, source, adapter: as in `DrawingModel`.
        overwrite: pictures of other prompts or settings that `out` lists go; else they are refused.
        progress: called after every batch with (pictures there, pictures wanted).

    Returns:
        The records: id, file_name, prompt, seed, source, adapter, and the settings of the generator.

    Raises:
        ConfigError: `out` cannot be made, lists something that was not drawn here, or pictures of other prompts or settings
            (to be overwritten: such that people voted on).
    """
    model = DrawingModel(lambda: generator, view, source, adapter)
    return draw_models([model], prompts, out, seed=seed, count=count, overwrite=overwrite, progress=progress).rows


def draw_models(
    models: Sequence[DrawingModel],
    prompts: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    count: int = 1,
    rank: int = 0,
    world: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Drawn:
    """`draw_pictures` with several models, one after the other, and by several processes, each its share.

    Picture k of a prompt has the same seed for every model. Of several processes each draws every `world`-th batch, the
    very batches that one process alone would draw, and none waits for another: the last one to finish writes the listing.
    A process that was killed is started again with the same rank.

    Args:
        models: with a `name` each if they are several.
        prompts, out, seed, count, overwrite: as in `draw_pictures`.
        rank, world: which of how many processes this is.
        progress: as in `draw_pictures`, of this process's share.

    Raises:
        ConfigError: two models have one name; one text stands in the place of prompts; as in `draw_pictures`; or several
            processes are to overwrite pictures, which one alone can do without leaving a wrong record for a moment.
    """
    if len({model.name for model in models}) < len(models):
        raise ConfigError("models: each needs a name of its own")
    check_texts(prompts)
    folder = PictureFolder(out, rank, world, overwrite=overwrite)
    numbers = range(len(prompts) * count)
    folder.drop_all_but({_id(number, model) for model in models for number in numbers})
    rows: dict[tuple[int, int], dict[str, object]] = {}
    drawn = there = 0
    for place, model in enumerate(models):
        generator = model.load()
        settings = _settings_of(generator, model)
        ending = ".glb" if generator.backbone.medium == "volume" else ".png"
        wanted = [
            _record(number, prompts[number // count], seed + number, model, settings, ending) for number in numbers
        ]
        rows |= {(number, place): row for number, row in enumerate(wanted)}
        whole = folder.prepare(wanted)
        share = [number for number in numbers if folder.parts.has(number, generator.batch)]
        missing = [number for number in share if wanted[number]["id"] not in whole]
        there += len(share) - len(missing)
        texts, seeds = [prompts[number // count] for number in missing], [seed + number for number in missing]
        waiting = iter(missing)
        for batch in generator(texts, seeds, view=model.view) if missing else ():
            for pixels in batch:
                row = wanted[next(waiting)]
                _save(pixels, out / str(row["file_name"]))
                folder.add(row)
                drawn += 1
            if progress is not None:
                progress(there + drawn, len(share) * len(models))
        del generator  # before the next one is loaded
    every = [rows[place] for place in sorted(rows)]
    return Drawn(every, drawn, there, folder.finish(every))


def _save(media: Tensor, path: Path) -> None:
    """A picture; of a shape also the file that says what it is, last, for that one is listed."""
    save_picture(to_picture(media), path.with_suffix(".png"))
    if is_grid(media):
        try:
            save_bytes(glb_of_grid(media), path)
        except DataError:  # it is empty: a file without content, which whoever reads it names
            save_bytes(b"", path)


def _settings_of(generator: ImageGenerator, model: DrawingModel) -> dict[str, object]:
    chosen = {}
    if isinstance(generator, BestOf):
        spec = generator.reward.spec
        chosen = {"best_of": generator.n, "chosen_by": f"{spec.name} {spec.version}"}
    return chosen | {
        "source": model.source,
        "adapter": None if model.adapter is None else _hash_of(model.adapter),
        "steps": len(generator.times) - 1,
        "guidance_scale": generator.guidance_scale,
        "sampler": _label(generator.sampler),
        "eta": getattr(generator.sampler, "eta", 0.0),
        "resolution": generator.resolution or generator.backbone.resolution,
        "precision": str(generator.backbone.dtype).removeprefix("torch."),
    }


def _label(sampler: Sampler) -> str:
    """Its class, and what settings it has besides eta, which has a column of its own."""
    settings = {name: value for name, value in vars(sampler).items() if name != "eta"}
    name = type(sampler).__name__
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings.items())})" if settings else name


def _id(number: int, model: DrawingModel) -> str:
    return f"{number:06d}-{model.name}" if model.name else f"{number:06d}"


def _record(
    number: int, prompt: str, seed: int, model: DrawingModel, settings: Mapping[str, object], ending: str
) -> dict[str, object]:
    name = _id(number, model)
    return {"id": name, "file_name": name + ending, "prompt": prompt, "seed": seed, **settings}


def _hash_of(adapter: Path) -> str:
    """Which LoRA it is: folders and files may be written again under the same name."""
    digest = hashlib.sha256()
    for path in sorted(adapter.rglob("*.safetensors")) if adapter.is_dir() else [adapter]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
