"""Online runs of a few steps on the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffalign.config import RunConfig
from tests.training.tiny import shared_cache, tiny

DDIM = {"name": "ddim", "steps": 3, "eta": 1.0}
ROUND = {"members": 2, "rewards": [{"name": "scene", "form": "graded"}], "sampler": {"name": "ddim", "steps": 3}}


def online(home: Path, objective: dict[str, Any], family: str = "sd", **sections: Any) -> RunConfig:
    """A config whose policy draws; `online` is laid over a small round."""
    zoo = {"sd": "zoo://shapes-sd", "sd3": "zoo://shapes-sd3"}[family]
    settings: dict[str, Any] = {
        "data": {"kind": "prompts", "path": f"{zoo}/preferences", "cache": shared_cache()},
        "objective": objective,
        "online": dict(ROUND),
    }
    if family == "sd3":
        settings["online"]["sampler"] = {"name": "flow_euler", "steps": 3}
    if objective["name"] in ("d3po", "flow_grpo"):
        settings["online"]["sampler"] = DDIM
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section if isinstance(section, dict) else section
    return tiny(home, family=family, **settings)
