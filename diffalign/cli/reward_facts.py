"""What `diffalign list rewards` says of each: its settings, and what its number means."""

from __future__ import annotations

import math
from typing import Any

from diffalign.config.rewards import REWARD_PARAMS, SET_REWARD_PARAMS
from diffalign.config.sample_rewards import own_settings

_PAGES = {  # rewards without a page of their own
    "psnr": "rewards/full_reference",
    "ssim": "rewards/full_reference",
    "http": "rewards/remote",
    "fad_song": "rewards/fad",
    "vendi": "set_rewards",
    "frechet": "set_rewards",
}
SET_REWARD_NAMES = [params.model_fields["name"].default for params in SET_REWARD_PARAMS]


def reward_facts(name: str) -> dict[str, Any]:
    """What the number of one reward means; loads torch, and no weights."""
    from diffalign.rewards import REWARDS, SET_REWARDS

    page = f"docs/{_PAGES.get(name, f'rewards/{name}')}.md"
    of_sets = name in SET_REWARDS
    spec = SET_REWARDS[name].spec if of_sets else REWARDS[name].spec
    low, high = spec.range
    return {
        "medium": "any" if name in ("vendi", "frechet") else spec.media,  # what their encoder sees
        "judges": spec.level.replace("_", " "),
        "range": [None if math.isinf(bound) else bound for bound in (low, high)],
        "unit": spec.unit,
        "needs": list(spec.needs),
        "reads": list(spec.reads),
        "differentiable": spec.differentiable,
        "licence": spec.licence,
        "source": spec.source,
        "page": page,
    }


def reward_rows() -> list[dict[str, Any]]:
    """One row a reward, those of sets last."""
    return [
        {
            "name": params.model_fields["name"].default,
            "what": (params.__doc__ or "").split("\n")[0],
            "settings": {
                key: "required" if params.model_fields[key].is_required() else params.model_fields[key].default
                for key in own_settings(params)
            },
            **reward_facts(params.model_fields["name"].default),
        }
        for params in (*REWARD_PARAMS, *SET_REWARD_PARAMS)
    ]


def told(key: str, value: Any) -> str:
    """A field of a row, for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        parts = (f"{name} (required)" if each == "required" else f"{name}={each}" for name, each in value.items())
        return ", ".join(parts) or "-"
    if key == "range":
        low, high = value
        return f"{-math.inf if low is None else low:g} to {math.inf if high is None else high:g}"
    return ", ".join(map(str, value)) or "-" if isinstance(value, list) else str(value)
