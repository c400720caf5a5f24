"""The model card beside trained weights: what the Hub shows, and what a reader needs to use them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from diffalign.config import RunConfig
from diffalign.config.model import ModelConfig
from diffalign.config.online import OnlineConfig
from diffalign.objectives import get_objective
from diffalign.zoo import is_zoo, locate

TAG = "diffalign"
_PIPELINES = {
    "sd": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(config: RunConfig, run: Path, step: int, kind: str | None = None, title: str | None = None) -> str:
    """The card of what a run has trained, in Markdown with the Hub's front matter.

    The evaluation's figures are in it where the run folder has some.

    Args:
        config: the run's settings.
        run: its folder.
        step: of which the weights are.
        kind: "lora", "kohya" or "model"; None is what the run itself writes.
        title: what the file is called, without its suffix, where one is told to load it; None: as the run folder.
    """
    model, method = config.model, config.objective.name
    kind = kind or ("lora" if model.train == "lora" else "model")
    paper = get_objective(method).params.paper
    how = "full fine-tuning" if model.train == "full" else f"LoRA of rank {model.lora.rank or 'as it began'}"
    lines = [
        f"# {config.name}",
        "",
        f"{_base(model.path)} aligned with `{method}` ({paper}): {how}, by diffalign.",
        "",
        "| setting | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in _settings(config, step)),
        "",
        *_usage(model, kind, title or run.resolve().name, _how_drawn(config)),
        *_evaluation(run, records=config.online is None),
        "## Licence",
        "",
        "Not stated here: the base model's licence and that of the preference data apply. Add `license:` above before you "
        "publish.",
        "",
    ]
    return _front_matter(model, kind, method) + "\n".join(lines)


def adapter_card(model: ModelConfig, kind: str, title: str) -> str:
    """The card of a LoRA that no run of ours is known of."""
    lines = [
        f"# {title}",
        "",
        f"A LoRA for {_base(model.path)}, converted by diffalign.",
        "",
        *_usage(model, kind, title),
    ]
    return _front_matter(model, kind, None) + "\n".join(lines)


def refresh_card(run: Path, config: RunConfig, step: int) -> None:
    """Write the card of a run's result anew, for an evaluation that came after it."""
    folder = run / config.model.result
    if folder.is_dir():
        draft = folder / ".README.md.partial"
        draft.write_text(model_card(config, run, step), encoding="utf-8")
        os.replace(draft, folder / "README.md")


def _front_matter(model: ModelConfig, kind: str, method: str | None) -> str:
    volume = model.family == "volume"
    task = "text-to-image" if not volume else "image-to-3d" if _is_shown_pictures(model.path) else "text-to-3d"
    tags = [task, *(["lora"] if kind != "model" else []), TAG, *([method] if method else [])]
    content: dict[str, Any] = {
        "library_name": "diffalign" if volume else "diffusers",  # which has no pipeline of volumes
        "pipeline_tag": task,
        "tags": tags,
    }
    if _is_hub_id(model.path):
        relation = "finetune" if kind == "model" else "adapter"
        content = {"base_model": model.path, "base_model_relation": relation, **content}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---\n\n"


def _is_shown_pictures(path: str) -> bool:
    """Whether a volume model's condition is a picture: by its folder, or of a hub id its name (TRELLIS-image-large)."""
    folder = locate(path) if is_zoo(path) else Path(path)
    try:
        if (folder / "model_index.json").is_file():
            parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            return parts.get("image_encoder") not in (None, [None, None])
        return "image_cond_model" in (folder / "pipeline.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "image" in Path(path).name.lower()


def _is_hub_id(path: str) -> bool:
    return not is_zoo(path) and _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def _base(path: str) -> str:
    """A hub id or zoo name as it is; of a local path the last part, which says enough and nothing of a disk."""
    return f"`{path if is_zoo(path) or _is_hub_id(path) else Path(path).name}`"


def _data(path: str) -> str:
    """Its name: of a local path the last part, and the one before where that is a name that every set has."""
    name = _base(path).strip("`")
    return "/".join(Path(path).parts[-2:]) if name in ("data", "train") else name


def _settings(config: RunConfig, step: int) -> list[tuple[str, object]]:
    model, optimizer = config.model, config.optimizer
    method = config.objective.model_dump(exclude={"name"})
    lora: list[tuple[str, object]] = []
    if model.train == "lora":
        given = {"rank": model.lora.rank, "alpha": model.lora.alpha, "targets": model.lora.targets}
        lora = [(f"LoRA {name}", value) for name, value in given.items() if value is not None]
        if model.lora.start is not None:
            lora.append(("started from", Path(model.lora.start).name))
    return [
        *method.items(),
        ("data", f"{_data(config.data.path)} ({config.data.kind})"),
        ("resolution", config.data.resolution or "the model's own"),
        *(
            []
            if config.online is None
            else _rounds(config.online, config.objective.experts, "shapes" if model.family == "volume" else "pictures")
        ),
        *lora,
        ("learning rate", f"{optimizer.learning_rate:g}, {optimizer.schedule}, {optimizer.warmup_steps} warm-up steps"),
        ("steps", f"{step} of {config.groups_per_step} groups"),
        ("EMA decay", config.training.ema_decay or "no EMA"),
        ("precision", f"frozen weights {model.precision}, autocast {config.training.mixed_precision}"),
        ("seed", config.seed),
    ]


def _rounds(online: OnlineConfig, experts: bool, drawn_are: str) -> list[tuple[str, object]]:
    """What an online run drew, and who judged it."""
    drawn = "the family's own" if online.sampler is None else f"{online.sampler.name}, {online.sampler.steps} steps"
    how = ("drawn with", f"{drawn}, guidance scale {online.guidance_scale:g}")
    if experts:
        return [how]
    sets = () if online.set_reward is None else (online.set_reward,)
    judges = [f"{each.name} of whole sets" for each in sets] + [each.name for each in online.rewards]
    judged = "people" if online.preference == "human" else ", ".join(judges)
    several = f", as one by {online.combine}" if len(online.rewards) > 1 else ""
    return [("judged by", judged + several), (f"{drawn_are} of each prompt", online.members), how]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _how_drawn(config: RunConfig) -> str:
    """The pipeline's arguments with which the evaluation drew."""
    told = config.evaluation
    steps = "" if told.sampler is None else f", num_inference_steps={told.sampler.steps}"
    return f"{steps}, guidance_scale={told.guidance_scale}"


def _usage(model: ModelConfig, kind: str, name: str, how_drawn: str = "") -> list[str]:
    if model.family == "volume":
        return _usage_of_volumes(model, kind, how_drawn)
    pipeline = _PIPELINES[model.family]
    base = model.path if _is_hub_id(model.path) else "BASE_MODEL"
    load = ".from_single_file" if base.endswith(".safetensors") else ".from_pretrained"
    if kind == "model":
        code = [f'pipe = {pipeline}.from_pretrained("THIS_FOLDER")']
    else:
        what = f"{name}.safetensors" if kind == "kohya" else "THIS_FOLDER"
        code = [f'pipe = {pipeline}{load}("{base}")', f'pipe.load_lora_weights("{what}")']
    comfy = {
        "kohya": "Put the .safetensors file into `models/loras` and add a *Load LoRA* node (A1111: `models/Lora`, and "
        f"`<lora:{name}:1>` in the prompt).",
        "lora": "ComfyUI does not read alpha from this format: `diffalign export RUN -o NAME.safetensors -f kohya` "
        "writes the file for `models/loras` and the *Load LoRA* node.",
        "model": "ComfyUI loads the network alone: copy its .safetensors file into `models/diffusion_models` and take the "
        "*Load Diffusion Model* node; text encoders and autoencoder are the base model's.",
    }[kind]
    return [
        "## Use in diffusers",
        "",
        "```python",
        f"from diffusers import {pipeline}",
        "",
        *code,
        'pipe("your prompt").images[0]',
        "```",
        "",
        "## Use in ComfyUI",
        "",
        comfy,
        "",
    ]


def _usage_of_volumes(model: ModelConfig, kind: str, how_drawn: str) -> list[str]:
    zoo, lora = is_zoo(model.path) and kind != "model", kind != "model"
    base = f'locate("{model.path}")' if zoo else f'"{model.path if _is_hub_id(model.path) else "BASE_MODEL"}"'
    source = base if lora else '"THIS_FOLDER"'
    prompt = "picture.png" if _is_shown_pictures(model.path) else "your prompt"
    return [
        "## Use in diffalign",
        "",
        "diffusers has no pipeline of this family; `pip install 'diffalign[sim]'` has.",
        "",
        "```python",
        "from pathlib import Path",
        "",
        "from diffalign.backbones import VolumePipeline",
        "from diffalign.sim import Voxels, glb_of",
        *(["from diffalign.zoo import locate"] if zoo else []),
        "",
        f"pipe = VolumePipeline.from_pretrained({source})",
        *(['pipe.load_lora_weights("THIS_FOLDER")'] if lora else []),
        f'shapes = pipe("{prompt}"{how_drawn}).volumes  # occupancy [batch, 1, x, y, z] in [0, 1], z up',
        'Path("shape.glb").write_bytes(glb_of(Voxels.of(shapes[0].numpy())))',
        "```",
        "",
    ]


def _evaluation(run: Path, *, records: bool) -> list[str]:
    """The table of the last comparison, or nothing."""
    try:
        summary = json.loads((run / "evaluation" / "summary.json").read_text(encoding="utf-8"))
        rows = [_row(name, each) for name, each in summary["rewards"].items() if "difference" in each]
        learnt = [f"`{name}`" for name, each in summary["rewards"].items() if each["trained_on"]]
        prompts, confidence = summary["prompts"], summary["confidence"]
        form = _form(summary.get("geometry"))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    how = "made the preferences" if records else "judged what it learnt from"
    note = f" {' and '.join(learnt)} {how}." if learnt else ""
    return [
        "## Evaluation",
        "",
        f"Base against aligned on {prompts} held-out prompts, from the same noise; in brackets the {confidence:.0%} "
        f"interval of the difference (paired bootstrap over prompts).{note}",
        "",
        "| reward | base | aligned | difference |",
        "|---|---|---|---|",
        *rows,
        "",
        *form,
    ]


def _form(geometry: Any) -> list[str]:
    """Of shapes: how full and whole they are, and how far they moved from those of the base model; or nothing."""
    if not isinstance(geometry, dict):
        return []
    sides = ("volume", "pieces", "diversity_within")
    both = {name.replace("_", " "): geometry[name] for name in sides if isinstance(geometry.get(name), dict)}
    rows = [_row(name, _means_of(entry)) for name, entry in both.items()]
    draws = geometry.get("two_draws") or {}
    moved = [
        f"{name} {geometry[name]:.3g}" + (f" (two draws of the base model: {draws[name]:.3g})" if name in draws else "")
        for name in ("chamfer", "f_score", "shared")
        if isinstance(geometry.get(name), int | float)
    ]
    table = ["| form | base | aligned | difference |", "|---|---|---|---|", *rows, ""] if rows else []
    told = [f"To the base model's shape of the same prompt and seed: {', '.join(moved)}.", ""] if moved else []
    return [*table, *told]


def _means_of(entry: Any) -> Any:
    """A figure of both sides, keyed as a reward is."""
    return {**entry, "unit": "", "base_mean": entry["base"], "aligned_mean": entry["aligned"]}


def _row(name: str, figures: Any) -> str:
    unit = f" ({figures['unit']})" if figures["unit"] else ""
    change = f"{figures['difference']:+.3g} ({figures['low']:+.3g} to {figures['high']:+.3g})"
    return f"| {name}{unit} | {figures['base_mean']:.4g} | {figures['aligned_mean']:.4g} | {change} |"
