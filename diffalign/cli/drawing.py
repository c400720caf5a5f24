"""`diffalign generate`: prompts to pictures and records."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from diffalign.cli.progress import drawing_bar
from diffalign.data import read_prompts
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator, save_picture, to_picture
from diffalign.zoo import is_zoo, list_zoo, locate


def draw(
    prompts: str,
    out: Path,
    *,
    run: Path | None,
    model: str | None,
    family: str | None,
    adapter: Path | None,
    steps: int | None,
    guidance_scale: float | None,
    seed: int,
    count: int,
    batch: int,
    device: str | None,
) -> None:
    """Draw `count` pictures for every prompt into `out`, and list them in metadata.jsonl.

    A picture that is listed already with the same prompt, seed and model is kept.

    Raises:
        ConfigError, DataError: the model or the prompts cannot be used.
    """
    texts = [text for text in _prompts(prompts) for _ in range(count)]
    there = _listed(out)
    generator, view, source = _generator(run, model, family, adapter, steps, guidance_scale, batch, device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {out}: {error.strerror}") from None
    identity = _hash_of(run / "adapter" if run is not None else adapter)
    rows: list[dict[str, object]] = [
        {
            "id": f"{number:06d}",
            "file_name": f"{number:06d}.png",
            "prompt": text,
            "seed": seed + number,
            "source": source,
            "adapter": identity,
            "steps": len(generator.times) - 1,
            "guidance_scale": generator.guidance_scale,
        }
        for number, text in enumerate(texts)
    ]
    missing = [row for row in rows if there.get(row["id"]) != row or not (out / str(row["file_name"])).is_file()]
    kept = [row for row in rows if row not in missing]
    _list(out, kept)
    with drawing_bar(len(missing)) as progress:
        done = 0
        for pictures in generator(
            [str(row["prompt"]) for row in missing], [int(str(row["seed"])) for row in missing], view=view
        ):
            for pixels in pictures:
                save_picture(to_picture(pixels), out / str(missing[done]["file_name"]))
                done += 1
            _list(out, kept + missing[:done])
            progress(done, len(missing))


def _prompts(source: str) -> list[str]:
    if is_zoo(source):
        return read_prompts(locate(source))
    if source.endswith((".txt", ".jsonl")):
        return read_prompts(Path(source))
    if not source.strip():
        raise ConfigError("--prompts: empty; give a prompt, a .txt, a .jsonl or zoo://NAME/held_out")
    return [source]


def _generator(
    run: Path | None,
    model: str | None,
    family: str | None,
    adapter: Path | None,
    steps: int | None,
    guidance_scale: float | None,
    batch: int,
    device: str | None,
) -> tuple[ImageGenerator, str, str]:
    """The generator, the view to draw with, and the name of the model for the records."""
    if (run is None) == (model is None):
        raise ConfigError("give either --run (the aligned model of a run folder) or --model")
    from diffalign.training import load_run
    from diffalign.training.build import build_inference

    if run is not None:
        if adapter is not None or family is not None:
            raise ConfigError("--run brings its own model and adapter; leave out --family and --adapter")
        loaded = load_run(run, device=device)
        generator = loaded.generator
        guidance = generator.guidance_scale if guidance_scale is None else guidance_scale
        times = generator.times if steps is None else loaded.backbone.times(steps)
        return replace(generator, times=times, guidance_scale=guidance, batch=batch), loaded.view, run.resolve().name
    assert model is not None
    if family is None:
        cards = {item.name: item.card for item in list_zoo()}
        if not is_zoo(model):
            raise ConfigError(f"--family: say which family {model} is of (diffalign list families)")
        family = str(cards[locate(model).name]["family"])
    backbone = build_inference(family, model, adapter, device)
    guidance = 1.0 if guidance_scale is None else guidance_scale
    source = model if adapter is None else f"{model}+{adapter.name}"
    return ImageGenerator.create(backbone, steps=steps, guidance_scale=guidance, batch=batch), "reference", source


def _listed(out: Path) -> dict[object, dict[str, object]]:
    """The records that an earlier call has listed, by id.

    Raises:
        ConfigError: the folder lists something else, which would be lost.
    """
    listing = out / "metadata.jsonl"
    if not listing.exists():
        return {}
    try:
        rows = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        ours = all(row.keys() >= {"id", "file_name", "prompt", "seed", "steps"} for row in rows)
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise ConfigError(f"--out: {listing} lists something that generate did not draw; choose another folder")
    return {row["id"]: row for row in rows}


def _hash_of(adapter: Path | None) -> str | None:
    """Which LoRA it is: folders and files may be written again under the same name."""
    if adapter is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(adapter.rglob("*.safetensors")) if adapter.is_dir() else [adapter]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _list(out: Path, rows: list[dict[str, object]]) -> None:
    draft = out / ".metadata.jsonl.partial"
    draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(draft, out / "metadata.jsonl")
