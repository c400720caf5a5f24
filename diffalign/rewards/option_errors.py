"""What is wrong with a reward's options, said in the words of whoever gave them."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic_core import ErrorDetails

from diffalign.config.params import Params
from diffalign.config.sample_rewards import SHARED_SETTINGS, ProcessParams, SampleRewardParams, own_settings

_CALL = re.compile(r"load_reward\('(\w+)', (\w+)=\.\.\.\)")


def as_text(message: str) -> str:
    """A message about a call of `load_reward` as one about a line, NAME:option=value."""
    return _CALL.sub(r"give it as \1:\2=VALUE", message)


def sentence(reward: str, params: type[Params], item: ErrorDetails) -> str:
    """One problem as `dotted.path: what was expected, what was seen`."""
    path = ".".join(str(step) for step in (reward, *item["loc"]))
    if item["type"] == "extra_forbidden":
        known = [*own_settings(params), *(SHARED_SETTINGS if issubclass(params, SampleRewardParams) else ())]
        known = known if len(item["loc"]) == 1 else list(ProcessParams.model_fields)
        key = str(item["loc"][-1])
        return f"{path}: unknown option{closest(key, known) or '; known options: ' + ', '.join(known)}"
    if item["type"] == "missing":
        return f"{path}: required, but missing: load_reward({reward!r}, {item['loc'][-1]}=...)"
    if item["type"] == "value_error":  # ours, which says itself what was seen
        return f"{path}: {item['msg'].removeprefix('Value error, ')}"
    context, said = item.get("ctx", {}), item["msg"].removeprefix("Input should be ")
    bounds = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    expected = next((f"{sign} {context[key]}" for key, sign in bounds.items() if key in context), said)
    return f"{path}: must be {expected}, got {item['input']!r}"


def closest(seen: str, known: Any) -> str:
    """Which of the names was perhaps meant, as the end of a message; "" where none is near."""
    close = difflib.get_close_matches(str(seen), list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
