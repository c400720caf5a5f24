"""A folder of pictures and their records: drawn from prompts, and gone on with where an earlier call was cut off."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path

from diffalign.exceptions import ConfigError
from diffalign.pipelines.generate import ImageGenerator
from diffalign.pipelines.pictures import save_picture, to_picture
from diffalign.samplers import Sampler

_LISTING = "metadata.jsonl"
_OURS = {"id", "file_name", "prompt", "seed", "steps"}  # what every record of ours has


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
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, object]]:
    """Draw `count` pictures for every prompt into `out`, and list them in its metadata.jsonl.

        run = diffalign.training.load_run(Path("runs/quickstart-..."))
        draw_pictures(run.generator, ["a red circle"], Path("out"), source=run.folder.name, adapter=run.folder / "adapter")

    A picture that is listed already, drawn from the same prompt and seed with the same settings, is kept; so a call that
    was cut off, however roughly, is finished by calling again, with the same result. What the listing says of other
    pictures is dropped.

    Args:
        generator: the model and how it is sampled.
        out: the folder; made if need be.
        seed: of the first picture; the next one has the next seed.
        count: pictures per prompt.
        view: which of the backbone's networks draws: "policy", "ema", "reference".
        source: what the records call the model.
        adapter: the file or folder of the LoRA that the view has; its hash goes into the records, so that pictures
            of an adapter that was since written anew are drawn again.
        progress: called after every batch with (pictures there, pictures wanted).

    Returns:
        The records: id, file_name, prompt, seed, source, adapter, and the settings of the generator.

    Raises:
        ConfigError: `out` cannot be made, or lists something that was not drawn here.
    """
    listing = out / _LISTING
    before, listed = _read(listing)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: cannot make {out}: {error.strerror}") from None
    texts = [text for text in prompts for _ in range(count)]
    settings = _settings_of(generator, source, adapter)
    rows = [_record(number, text, seed + number, settings) for number, text in enumerate(texts)]
    whole = [listed.get(row["id"]) == row and (out / str(row["file_name"])).is_file() for row in rows]
    kept = list(compress(rows, whole))
    if (text := _text(kept)) != before:
        _replace(listing, text)  # records of pictures that will be overwritten go first
    missing = [number for number, there in enumerate(whole) if not there]
    if not missing:
        return rows
    pictures = generator([texts[number] for number in missing], [seed + number for number in missing], view=view)
    waiting = iter(missing)
    done = len(kept)
    with listing.open("a", encoding="utf-8", newline="\n") as file:  # a record is added as soon as its picture is there
        for batch in pictures:
            for pixels in batch:
                row = rows[next(waiting)]
                save_picture(to_picture(pixels), out / str(row["file_name"]))
                file.write(_text([row]))
                file.flush()
                done += 1
            if progress is not None:
                progress(done, len(rows))
    _replace(listing, _text(rows))  # in order
    return rows


def _settings_of(generator: ImageGenerator, source: str, adapter: Path | None) -> dict[str, object]:
    return {
        "source": source,
        "adapter": None if adapter is None else _hash_of(adapter),
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


def _record(number: int, prompt: str, seed: int, settings: Mapping[str, object]) -> dict[str, object]:
    return {"id": f"{number:06d}", "file_name": f"{number:06d}.png", "prompt": prompt, "seed": seed, **settings}


def _hash_of(adapter: Path) -> str:
    """Which LoRA it is: folders and files may be written again under the same name."""
    digest = hashlib.sha256()
    for path in sorted(adapter.rglob("*.safetensors")) if adapter.is_dir() else [adapter]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read(listing: Path) -> tuple[str, dict[object, dict[str, object]]]:
    """The text of a listing, and its records by id.

    Raises:
        ConfigError: it lists something else, which would be lost.
    """
    if not listing.exists():
        return "", {}
    try:
        text = listing.read_bytes().decode("utf-8", errors="replace")
        *lines, last = text.split("\n")
        if not _is_cut_off(last):
            lines.append(last)
        rows = [json.loads(line) for line in lines if line.strip()]
        ours = all(row.keys() >= _OURS for row in rows)
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise ConfigError(f"out: {listing} lists something that generate did not draw; choose another folder")
    return text, {row["id"]: row for row in rows}


def _is_cut_off(line: str) -> bool:
    """Whether it is the beginning of a record of ours: its picture is drawn again."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith('{"id": "')
    return False


def _text(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _replace(listing: Path, text: str) -> None:
    draft = listing.with_name(f".{listing.name}.partial")
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, listing)
