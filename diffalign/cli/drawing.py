"""`diffalign generate`: prompts to pictures and records."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from diffalign.cli.progress import drawing_bar
from diffalign.config import RunConfig
from diffalign.config.run import FLOW_FAMILIES, Precision
from diffalign.config.samplers import DDIMParams
from diffalign.data import read_prompts
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator, save_picture, to_picture
from diffalign.pipelines.generate import SamplerName
from diffalign.zoo import is_zoo, list_zoo, locate


@dataclass(frozen=True)
class Wishes:
    """How to draw; None is the run's or the family's own."""

    sampler: SamplerName | None = None
    steps: int | None = None
    eta: float | None = None
    guidance_scale: float | None = None
    resolution: int | None = None
    precision: Precision | None = None

    @classmethod
    def checked(
        cls,
        sampler: str | None,
        steps: int | None,
        eta: float | None,
        guidance_scale: float | None,
        resolution: int | None,
        precision: str | None,
    ) -> Wishes:
        """From what stands on the command line.

        Raises:
            ConfigError: no such sampler or precision.
        """
        for option, seen, known in (
            ("--sampler", sampler, get_args(SamplerName)),
            ("--precision", precision, get_args(Precision)),
        ):
            if seen is not None and seen not in known:
                close = difflib.get_close_matches(seen, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(f"{option}: must be one of {', '.join(known)}, got {seen!r}{hint}")
        return cls(
            cast("SamplerName | None", sampler), steps, eta, guidance_scale, resolution,
            cast("Precision | None", precision),
        )  # fmt: skip

    def over(self, config: RunConfig) -> Wishes:
        """With a run's own settings where nothing is wished for."""
        evaluation = config.evaluation
        own = evaluation.sampler
        sampler = self.sampler or (own.name if own is not None else None)
        eta = self.eta
        if eta is None and isinstance(own, DDIMParams) and sampler == "ddim":
            eta = own.eta
        return Wishes(
            sampler=sampler,
            steps=self.steps or (own.steps if own is not None else None),
            eta=eta,
            guidance_scale=evaluation.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            resolution=self.resolution or config.data.resolution,
            precision=config.model.precision if self.precision is None else self.precision,
        )


def draw(
    prompts: str,
    out: Path,
    *,
    run: Path | None,
    model: str | None,
    family: str | None,
    adapter: Path | None,
    wishes: Wishes,
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
    generator, view, source = _generator(run, model, family, adapter, wishes, batch, device)
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
            "sampler": type(generator.sampler).__name__,
            "eta": getattr(generator.sampler, "eta", 0.0),
            "resolution": generator.resolution or generator.backbone.resolution,
            "precision": str(generator.backbone.dtype).removeprefix("torch."),
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
    wishes: Wishes,
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
        loaded = load_run(run, device=device, precision=wishes.precision)
        return _create(loaded.backbone, wishes.over(loaded.config), batch), loaded.view, run.resolve().name
    assert model is not None
    if family is None:
        cards = {item.name: item.card for item in list_zoo()}
        if not is_zoo(model):
            raise ConfigError(f"--family: say which family {model} is of (diffalign list families)")
        family = str(cards[locate(model).name]["family"])
    backbone = build_inference(family, model, adapter, device, wishes.precision or "fp32")
    source = model if adapter is None else f"{model}+{adapter.name}"
    return _create(backbone, wishes, batch), "reference", source


def _create(backbone: Any, wishes: Wishes, batch: int) -> ImageGenerator:
    """The generator that is wished for.

    Raises:
        ConfigError: the model cannot be sampled so.
    """
    flow = backbone.family in FLOW_FAMILIES
    name = wishes.sampler or ("flow_euler" if flow else "ddim")
    if name == "flow_euler" and not flow:
        raise ConfigError("--sampler: flow_euler needs a flow model, and this one is none; use ddim")
    if wishes.eta is not None and name != "ddim":
        raise ConfigError(
            f"--eta: is a setting of the ddim sampler, and this is {name}; leave it out, or --sampler ddim"
        )
    try:
        backbone.sample_shape(wishes.resolution)
    except ValueError as error:
        raise ConfigError(f"--resolution: {str(error).removeprefix('data.resolution: ')}") from None
    try:
        return ImageGenerator.create(
            backbone,
            sampler=name,
            steps=wishes.steps,
            eta=wishes.eta or 0.0,
            guidance_scale=1.0 if wishes.guidance_scale is None else wishes.guidance_scale,
            batch=batch,
            resolution=wishes.resolution,
        )
    except ValueError as error:
        raise ConfigError(f"--steps: {str(error).removeprefix('steps: ')}") from None


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
