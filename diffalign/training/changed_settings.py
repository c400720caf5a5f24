"""What of a run's config.yaml may be changed before it is resumed: nothing that its steps follow from.

A resumed run goes on to the bit, so the settings that make a step stay as they were. Free are: how many steps there are,
what is written, drawn and judged beside them, and where and how fast the run goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffalign.config import RunConfig, with_absolute_paths
from diffalign.exceptions import ConfigError

_FREE = {  # sections, and settings of the others
    "name", "folder", "device", "samples", "evaluation", "health", "log",
    "model.gradient_checkpointing", "data.cache", "data.encode_batch", "data.on_bad", "training.steps",
    "training.max_batch", "training.two_pass", "training.reference_bank", "training.sharding",
    "training.checkpoint_every", "training.keep_checkpoints", "training.log_every", "training.threads",
}  # fmt: skip


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What a step follows from, by dotted path."""
    found = dict(_flat(with_absolute_paths(config).model_dump(mode="json"), ""))
    for name in ("groups", "accumulation", "processes"):  # a run may go on with others that make as many groups
        del found[f"training.{name}"]
    return found | {"training.groups x accumulation x processes": config.groups_per_step}


def check_unchanged(saved: Mapping[str, Any] | None, config: RunConfig, step: int) -> None:
    """Compare with the settings that a checkpoint was written with (None: an older diffalign kept none).

    Raises:
        ConfigError: names every one that differs, as it was and as it is.
    """
    if saved is None:
        return
    now = settings_of(config)
    changed = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    if changed:
        lines = [f"  {name}: was {saved.get(name)!r:.100}, is {now.get(name)!r:.100}" for name in changed]
        raise ConfigError(
            "\n".join(
                [
                    f"config.yaml is not the one that step {step} was trained with; put it back, or start a new run",
                    *lines,
                ]
            )
        )


def _flat(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path in _FREE:
        return
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{path}.{key}" if path else key)
    else:
        yield path, content
