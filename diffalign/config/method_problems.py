"""What keeps a run from training a method at all, before anything else is said of its settings."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.config.model import FAMILIES, FLOW_FAMILIES
from diffalign.config.objectives import OBJECTIVE_PARAMS


def method_problems(name: object, family: object, *, draws: bool) -> Iterator[str]:
    """Whether a run can train this method on this family at all: first of all that is to be said of a config."""
    facts = next((each for each in OBJECTIVE_PARAMS if each.model_fields["name"].default == name), None)
    if facts is None:
        return
    if facts.online and not draws:
        yield (
            f"objective.name: {name!r} learns from what the policy draws while it trains; add the section `online` "
            "(docs/online.md), or take a method that learns from records (diffalign list objectives)"
        )
    if facts.families == "flow" and family in FAMILIES and family not in FLOW_FAMILIES:
        instead = "d3po or flow_grpo, with online.sampler: {name: ddim, eta: 1}" if draws else "diffusion_dpo"
        yield (
            f"objective.name: {name!r} needs a flow model ({', '.join(FLOW_FAMILIES)}), and "
            f"model.family {family!r} is none; use objective.name: {instead}"
        )
