"""What `diffalign list rewards NAME` says of one: what its number means."""

from __future__ import annotations

from typing import Any

_PAGES = {  # rewards without a page of their own
    "psnr": "rewards/full_reference",
    "ssim": "rewards/full_reference",
    "http": "rewards/remote",
    "fad_song": "rewards/fad",
    "vendi": "set_rewards",
    "frechet": "set_rewards",
}


def reward_facts(name: str) -> dict[str, Any]:
    """What the number of one reward means; loads torch, and no weights."""
    from diffalign.rewards import REWARDS, SET_REWARDS

    page = f"docs/{_PAGES.get(name, f'rewards/{name}')}.md"
    if name in SET_REWARDS:  # what its number means depends on the encoder
        return {"judges": "a whole set", "page": page}
    spec = REWARDS[name].spec
    low, high = spec.range
    return {
        "judges": f"{spec.media}, {spec.level.replace('_', ' ')}",
        "range": f"{low:g} to {high:g}",
        "unit": spec.unit,
        "needs": ", ".join(spec.needs) or None,
        "reads": ", ".join(spec.reads) or None,
        "differentiable": "yes" if spec.differentiable else "no",
        "licence": spec.licence,
        "source": spec.source,
        "page": page,
    }
