"""Settings with which a run fits a card: changes are tried in the order of what they cost, until it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from diffalign.config import RunConfig
from diffalign.exceptions import ConfigError
from diffalign.training.memory import MemoryEstimate

log = logging.getLogger(__name__)
Changes = dict[str, Any]  # dotted path -> value
_SMALLER = (1024, 768, 512, 384, 256)


@dataclass(frozen=True)
class Proposal:
    """One more change.

    Attributes:
        why: what it does and what it costs, in a few words.
        changes: of this step alone.
        estimate: with this and all earlier changes.
    """

    why: str
    changes: Changes
    estimate: MemoryEstimate


def propose(
    config: RunConfig,
    limit: int,
    estimate: Callable[[RunConfig], MemoryEstimate],
    apply: Callable[[Changes], RunConfig],
) -> list[Proposal]:
    """Changes, one after the other, until the run fits in `limit` bytes, or until nothing is left to try.

    A change is tried where a stage that it helps does not fit, and kept where that stage then takes less, and no other one
    more than all did before.

    Args:
        apply: the config with all these changes. It may raise ConfigError: then a change is passed over.
    """
    found: list[Proposal] = []
    made: Changes = {}
    now = estimate(config)
    for stage, why, step in _STEPS:
        while now.needed() > limit and stage in now.stages and now.needed(stage) > limit:
            changes = next(step(config), None)
            if changes is None:
                break
            log.info("trying %s", ", ".join(f"{name}={value}" for name, value in changes.items()))
            try:
                changed = apply(made | changes)
                then = estimate(changed)
            except ConfigError:
                break
            if then.needed(stage) >= now.needed(stage) or then.needed() > now.needed():  # 8 bit, say, enlarges caching
                break
            made |= changes
            config, now = changed, then
            if found and found[-1].why == why:  # one step further the same way
                changes = found.pop().changes | changes
            found.append(Proposal(why, changes, then))
    return found


def _halved(path: str) -> Callable[[RunConfig], Iterator[Changes]]:
    section, name = path.split(".")

    def step(config: RunConfig) -> Iterator[Changes]:
        value = getattr(getattr(config, section), name)
        if value > 1:
            yield {path: value // 2}

    return step


def _checkpointing(config: RunConfig) -> Iterator[Changes]:
    if not config.model.gradient_checkpointing:
        yield {"model.gradient_checkpointing": True}


def _fewer_groups(config: RunConfig) -> Iterator[Changes]:
    """The next smaller number of groups with which the step sees as many in all."""
    groups, accumulation = config.training.groups, config.training.accumulation
    for fewer in range(groups - 1, 0, -1):
        if groups % fewer == 0:
            yield {"training.groups": fewer, "training.accumulation": accumulation * groups // fewer}


def _fewer_groups_of_all(config: RunConfig) -> Iterator[Changes]:
    if config.data.buckets is None:
        yield from _fewer_groups(config)


def _fewer_groups_of_a_bucket(config: RunConfig) -> Iterator[Changes]:
    if config.data.buckets is not None:
        yield from _fewer_groups(config)


def _two_passes(config: RunConfig) -> Iterator[Changes]:
    if not config.training.two_pass:
        yield {"training.two_pass": True, "training.max_batch": 1}


def _narrow_weights(config: RunConfig) -> Iterator[Changes]:
    if config.model.precision == "fp32":
        yield {"model.precision": "bf16"}


def _narrow_activations(config: RunConfig) -> Iterator[Changes]:
    if config.training.mixed_precision == "no":
        yield {"training.mixed_precision": "bf16"}


def _narrow_both(config: RunConfig) -> Iterator[Changes]:
    """Frozen weights in fp32 would be copied by autocast."""
    if config.model.train == "lora":
        changes: Changes = {}
        for step in (_narrow_weights, _narrow_activations):
            changes |= next(step(config), {})
        if changes:
            yield changes
    else:
        yield from _narrow_activations(config)


def _narrow_reference(config: RunConfig) -> Iterator[Changes]:
    if config.model.train == "full" and config.model.reference.precision in (None, "fp32"):
        yield {"model.reference.precision": "bf16"}


def _distant_reference(config: RunConfig) -> Iterator[Changes]:
    if config.model.train == "full" and config.model.reference.device is None:
        yield {"model.reference.device": "cpu"}


def _quantised(bits: str) -> Callable[[RunConfig], Iterator[Changes]]:
    def step(config: RunConfig) -> Iterator[Changes]:
        if config.model.train == "lora" and config.model.quantise in (None, "8bit") and config.model.quantise != bits:
            yield {"model.quantise": bits}

    return step


def _narrow_optimizer(config: RunConfig) -> Iterator[Changes]:
    if config.optimizer.name == "adamw":
        yield {"optimizer.name": "adamw8bit"}


def _adapter(config: RunConfig) -> Iterator[Changes]:
    if config.model.train == "full":
        yield {
            "model.train": "lora",
            "model.precision": "bf16",
            "model.reference.precision": None,
            "model.reference.device": None,
        }


def _smaller(config: RunConfig) -> Iterator[Changes]:
    now = config.data.resolution or _SMALLER[0]
    yield from ({"data.resolution": side} for side in _SMALLER if side < now)


_STEPS: list[tuple[str, str, Callable[[RunConfig], Iterator[Changes]]]] = [
    ("caching", "fewer pictures and prompts encoded at a time: the same cache", _halved("data.encode_batch")),
    ("drawing", "fewer pictures drawn at a time: the same pictures", _halved("evaluation.batch")),
    ("training", "activations worked out again in the backward: a second forward", _checkpointing),
    ("training", "fewer groups at a time, the same step", _fewer_groups_of_all),
    ("training", "fewer groups at a time: other groups of a bucket meet in a step, as many", _fewer_groups_of_a_bucket),
    ("training", "one sample at a time with gradient: a second forward", _two_passes),
    ("training", "frozen weights and activations in bf16: less precision", _narrow_both),
    ("caching", "encoders and autoencoder in bf16: less precision", _narrow_weights),
    ("training", "the frozen copy in bf16", _narrow_reference),
    ("training", "the frozen copy on the CPU: its forward takes long", _distant_reference),
    ("training", "the optimizer's state in 8 bit: bitsandbytes", _narrow_optimizer),
    ("training", "an adapter in the place of all weights", _adapter),
    ("training", "frozen weights in 8 bit: bitsandbytes, less precision", _quantised("8bit")),
    ("training", "frozen weights in 4 bit: bitsandbytes, less precision", _quantised("4bit")),
    ("training", "smaller pictures", _smaller),
    ("caching", "smaller pictures", _smaller),
    ("drawing", "smaller pictures", _smaller),
]
