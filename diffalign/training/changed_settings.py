"""What of a run's config.yaml may be changed before it is resumed: nothing that its steps follow from.

A resumed run goes on to the bit, so the settings that make a step stay as they were. Free are: how many steps there are,
what is written, drawn and judged beside them, and where and how fast the run goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from diffalign.backbones import Backbone
from diffalign.config import RunConfig, with_absolute_paths
from diffalign.exceptions import CheckpointError, ConfigError

_FREE = {  # sections, and settings of the others
    "name", "folder", "device", "samples", "evaluation", "health", "log",
    "model.gradient_checkpointing", "data.cache", "data.encode_batch", "data.on_bad", "training.steps",
    "training.max_batch", "training.two_pass", "training.sharding",
    "training.checkpoint_every", "training.keep_checkpoints", "training.log_every", "training.threads",
    "training.groups", "training.accumulation", "training.processes",  # but not their product
}  # fmt: skip


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What a step follows from, by dotted path."""
    found = dict(flat_settings(with_absolute_paths(config).model_dump(mode="json"), "", _FREE - _bound(config).keys()))
    return found | {"training.groups x accumulation x processes": config.groups_per_step}


def check_unchanged(saved: Mapping[str, Any] | None, config: RunConfig, step: int) -> None:
    """Compare with the settings that a checkpoint was written with (None: an older diffalign kept none).

    A setting that the diffalign which wrote it did not know had its default.

    Raises:
        ConfigError: names every one that differs, as it was and as it is.
    """
    if saved is None:
        return
    now, bound = settings_of(config), _bound(config)
    free = _FREE - bound.keys()
    was = {name: value for name, value in saved.items() if name not in free}
    was |= dict(_unknown(config, "", was, now, free))
    refuse_changes(was, now, step, bound)


def refuse_changes(was: Mapping[str, Any], now: Mapping[str, Any], step: int, bound: Mapping[str, str]) -> None:
    """Compare settings by dotted path; `bound` says why one that is free elsewhere is not so here.

    Raises:
        ConfigError: names every one that differs, as it was and as it is.
    """
    changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if changed:
        lines = [
            f"  {name}: was {was.get(name)!r:.100}, is {now.get(name)!r:.100}"
            f"{f' ({bound[name]})' if name in bound else ''}"
            for name in changed
        ]
        raise ConfigError(
            "\n".join(
                [
                    f"config.yaml is not the one that step {step} was trained with; put it back, or start a new run",
                    *lines,
                ]
            )
        )


def _bound(config: RunConfig) -> dict[str, str]:
    """Settings that are free in other runs and not in this one, and why."""
    found, weight = {}, config.training.pair_weight
    if config.optimizer.schedule != "constant":
        found["training.steps"] = f"optimizer.schedule: {config.optimizer.schedule} ends at the last step"
    elif weight is not None and weight.name == "curriculum":
        found["training.steps"] = "the stages of training.pair_weight: curriculum are shares of all steps"
    if config.data.buckets is not None:
        found["training.groups"] = "with data.buckets the order of the records follows from it"
    return found


def _unknown(
    section: BaseModel, path: str, saved: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """The defaults of the settings that are not among the saved ones; one without a default is taken to be as it was."""
    for key, field in type(section).model_fields.items():
        name = f"{path}.{key}" if path else key
        if name in saved or name in free:
            continue
        value = getattr(section, key)
        if any(each.startswith(f"{name}.") for each in saved):
            if isinstance(value, BaseModel):
                yield from _unknown(value, name, saved, now, free)
        elif field.is_required():
            if name in now:
                yield name, now[name]
        else:
            default = section.model_copy(update={key: field.get_default(call_default_factory=True)})
            yield from flat_settings(default.model_dump(mode="json", include={key})[key], name, free)


def flat_settings(content: Any, path: str, free: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Values of nested settings by dotted path, without those that are `free`."""
    if path in free:
        return
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flat_settings(value, f"{path}.{key}" if path else key, free)
    else:
        yield path, content


def begun_with(backbone: Backbone) -> dict[str, str]:
    """Fingerprints of the parts of a model that a step follows from."""
    return {part: backbone.fingerprint(part) for part in ("base", "text", "vae", "start")}


def check_same_model(saved: Mapping[str, Any], now: Mapping[str, str], config: RunConfig) -> None:
    """Compare with those of the run's beginning; what an older diffalign did not save is not compared.

    Raises:
        CheckpointError: a file was put in another's place.
    """
    model = config.model
    for part, (path, what) in {
        "base": (f"model.path: {model.path}", "network or scheduler"),
        "text": (f"model.path: {model.path}", "text encoders"),
        "vae": (f"model.path: {model.path}", "autoencoder"),
        "start": (f"model.lora.start: {model.lora.start}", "LoRA"),
    }.items():
        if saved.get(part, now[part]) != now[part]:
            raise CheckpointError(
                f"{path} is not what this run started from (another {what}); put that back, or start a new run"
            )
