"""What is wrong with a config, in sentences: the dotted path, what was seen, what is expected, and the nearest name."""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from diffalign.config.reward_run import RewardRunConfig
from diffalign.config.run import RunConfig

_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_SECTION_EXPECTED = ("model_type", "model_attributes_type", "dict_type")
# sections that are one of several by their name -> what that is, and the settings that all of them have
_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {"objective": ("method", ()), "sampler": ("sampler", ("steps",))}


def sentence(item: ErrorDetails, content: Mapping[str, Any]) -> str:
    """One problem as `dotted.path: what was expected, what was seen`."""
    keys = _written_keys(item["loc"], content)
    path = ".".join(keys)
    kind, context, seen = item["type"], item.get("ctx", {}), shown(item["input"])
    if kind == "value_error":  # from our own validators, which name their path themselves
        text = str(context["error"])
        return text if not path else f"{path}: {text}"
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_hint_for_unknown(keys, content)}"
    if kind == "missing":
        return f"{path}: required, but missing"
    if kind in _BOUNDS:
        return f"{path}: must be {_BOUNDS[kind]} {next(iter(context.values())):g}, got {seen}"
    if kind == "literal_error":
        return f"{path}: must be {context['expected']}, got {seen}{_closest(item['input'], context['expected'])}"
    if kind == "union_tag_invalid":
        tag = str(context["discriminator"]).strip("'")
        return (
            f"{path}.{tag}: must be one of {context['expected_tags']}, got '{context['tag']}'"
            f"{_closest(context['tag'], context['expected_tags'])}"
        )
    if kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        choices = sorted(name for model in _models_at(keys, content) for name in _tags(model))
        return f"{path}.{tag}: required, but missing; one of {', '.join(choices)}"
    if kind in ("too_short", "too_long"):
        wanted = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"{path}: must have {wanted}, got {context['actual_length']}: {seen}"
    if kind == "string_pattern_mismatch":
        return f"{path}: must match {context['pattern']}, got {seen}"
    if kind in _SECTION_EXPECTED:
        return f"{path}: must be a section of keys, got {seen}; known keys: {', '.join(_fields_at(keys, content))}"
    if kind in ("tuple_type", "list_type"):
        return f"{path}: must be a list, got {seen}"
    hint = "; write null for none" if str(item["input"]).lower() == "none" else ""
    expected = item["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{path}: must be {expected}, got {seen}{hint}"


def shown(value: Any) -> str:
    """The value as it was written, cut at 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _closest(seen: Any, expected: str) -> str:
    names = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
    close = [name for name in names if str(seen).lower() in name.split("_")]  # dpo: diffusion_dpo, not sdpo
    close = close or difflib.get_close_matches(str(seen), names, n=1)
    return f"; did you mean {' or '.join(map(repr, close[:3]))}?" if close else ""


def _hint_for_unknown(keys: Sequence[str], content: Mapping[str, Any]) -> str:
    *parents, key = keys
    if "." in key:
        return f"; in a file, sections are nested: write '{key.split('.')[-1]}:' inside '{key.split('.')[0]}:'"
    known = _fields_at(parents, content)
    close = [name for name in known if key == "".join(word[:1] for word in name.split("_"))]  # lr
    close = close or difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    if parents and parents[-1] in _CHOICES:  # another in the place of a file's own leaves that one's settings behind
        what, kept = _CHOICES[parents[-1]]
        seen = functools.reduce(_inside, parents, content)
        told = ", ".join(f"{key}: {seen[key]}" for key in ("name", *kept) if key in seen)
        whole = f"--set '{'.'.join(parents)}={{{told}}}'"
        return f" of {seen['name']}; known keys: {', '.join(known)}; to change the {what}: {whole}"
    return f"; known keys: {', '.join(known)}"


def _written_keys(location: tuple[int | str, ...], content: Mapping[str, Any]) -> list[str]:
    """The path as written in the file: pydantic's own steps for the chosen variant of a union are left out."""
    keys: list[str] = []
    here: Any = content
    for number, step in enumerate(location):
        last = number == len(location) - 1
        if isinstance(here, Mapping) and step not in here and not last and step in here.values():
            continue  # a discriminator's value, such as 'diffusion_dpo'
        if step == "[key]" and last:  # it is the key itself that is wrong
            continue
        keys.append(str(step))
        here = _inside(here, str(step))
    return keys


def _inside(here: Any, key: str) -> Any:
    if isinstance(here, Mapping):
        return here.get(key)
    if isinstance(here, list) and key.isdigit() and int(key) < len(here):
        return here[int(key)]
    return None


def _models_at(keys: Sequence[str], content: Mapping[str, Any]) -> list[type[BaseModel]]:
    """The settings classes of one section; for a choice of variants, the one that was chosen."""
    models: list[type[BaseModel]] = [RewardRunConfig if "task" in content else RunConfig]
    here: Any = content
    for key in keys:
        if isinstance(here, Mapping):
            found = [model.model_fields[key] for model in models if key in model.model_fields]
            models = [inner for field in found for inner in _models_in(field.annotation)]
        here = _inside(here, key)
        values = here.values() if isinstance(here, Mapping) else ()
        seen = {value for value in values if isinstance(value, str)}
        models = [model for model in models if _tags(model) & seen] or models
    return models


def _fields_at(keys: Sequence[str], content: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for model in _models_at(keys, content) for name in model.model_fields))


def _tags(model: type[BaseModel]) -> set[str]:
    return {
        tag
        for name in ("name", "sampling")
        if name in model.model_fields and get_origin(model.model_fields[name].annotation) is Literal
        for tag in get_args(model.model_fields[name].annotation)
    }


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list) or get_args(annotation):
        for inner in get_args(annotation):
            yield from _models_in(inner)
