"""From YAML to settings: where a config is looked for, `a.b=c` overrides, and every problem in one message."""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from diffalign.config.run import RunConfig
from diffalign.exceptions import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def config_homes() -> list[Path]:
    """Folders in which a bare config name is looked up, in this order; the last one ships with diffalign."""
    installed, checkout = _PACKAGE / "configs", _PACKAGE.parent / "configs"
    return [Path("."), Path("configs"), installed if installed.is_dir() else checkout]


def list_configs() -> list[str]:
    """Names of the configs that ship with diffalign, for example `quickstart/diffusion_dpo.yaml`."""
    home = config_homes()[-1]
    return sorted(str(path.relative_to(home)) for path in home.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """Find a config file by path or by name.

    Raises:
        ConfigError: no such file; says where it was looked for and what is there.
    """
    for home in config_homes():
        for candidate in (home / name, home / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    close = difflib.get_close_matches(str(name), list_configs(), n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"no config {str(name)!r} in ./, ./configs or among the packaged ones ({', '.join(list_configs())}){hint}"
    )


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, apply `a.b=c` overrides and validate.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    path = find_config(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold sections such as 'model:', got {type(content).__name__}")
    return parse_config(content, overrides, source=str(path))


def parse_config(content: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "the config") -> RunConfig:
    """Validate a nested dict.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    merged = _copy(content)
    for override in overrides:
        _apply(merged, override)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        problems = list(dict.fromkeys(_sentence(item, merged) for item in error.errors(include_url=False)))
    noun = "problem" if len(problems) == 1 else "problems"
    raise ConfigError("\n".join([f"{len(problems)} {noun} in {source}", *(f"  {problem}" for problem in problems)]))


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(draft, path)


def _copy(content: Any) -> Any:
    return {str(key): _copy(value) for key, value in content.items()} if isinstance(content, Mapping) else content


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: must look like section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            value = float(value)
        except ValueError:
            pass
    here = content
    for depth, key in enumerate(keys[:-1]):
        inner = here.get(key)
        if inner is None:
            inner = here[key] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value, not a section")
        here = inner
    here[keys[-1]] = value


def _sentence(item: ErrorDetails, content: Mapping[str, Any]) -> str:
    """One problem as `dotted.path: what was expected, what was seen`."""
    path = _dotted(item["loc"], content)
    seen, kind, context = item["input"], item["type"], item.get("ctx", {})
    if kind == "value_error":  # from our own validators, which name their path themselves
        text = str(context["error"])
        return text if not path else f"{path}: {text}"
    if kind == "extra_forbidden":
        *parents, key = path.split(".")
        close = difflib.get_close_matches(key, _fields_at(parents, content), n=1)
        return f"{path}: unknown key" + (f"; did you mean '{close[0]}'?" if close else _known(parents, content))
    if kind == "missing":
        return f"{path}: required, but missing"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}[kind]
        return f"{path}: must be {sign} {next(iter(context.values()))}, got {seen!r}"
    if kind == "literal_error":
        return f"{path}: must be {context['expected']}, got {seen!r}{_closest(seen, context['expected'])}"
    if kind == "union_tag_invalid":
        tag = str(context["discriminator"]).strip("'")
        return (
            f"{path}.{tag}: must be one of {context['expected_tags']}, got '{context['tag']}'"
            f"{_closest(context['tag'], context['expected_tags'])}"
        )
    if kind == "union_tag_not_found":
        return f"{path}.{str(context['discriminator']).strip(chr(39))}: required, but missing"
    if kind == "string_pattern_mismatch":
        return f"{path}: must match {context['pattern']}, got {seen!r}"
    expected = item["msg"].removeprefix("Input should be ")
    return f"{path}: must be {expected}, got {seen!r}"


def _closest(seen: Any, expected: str) -> str:
    names = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
    close = difflib.get_close_matches(str(seen), names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _dotted(location: tuple[int | str, ...], content: Mapping[str, Any]) -> str:
    """The path as written in the file: pydantic's own steps for the chosen variant of a union are left out."""
    keys: list[str] = []
    here: Any = content
    for number, step in enumerate(location):
        last = number == len(location) - 1
        if isinstance(here, Mapping) and step not in here and not last and step in here.values():
            continue  # a discriminator's value, such as 'diffusion_dpo'
        keys.append(str(step))
        if isinstance(here, Mapping):
            here = here.get(step) if isinstance(step, str) else None
        elif isinstance(here, Sequence) and not isinstance(here, str) and isinstance(step, int):
            here = here[step] if step < len(here) else None
        else:
            here = None
    return ".".join(keys)


def _fields_at(parents: Sequence[str], content: Mapping[str, Any]) -> list[str]:
    """Names of the settings in one section; for a choice of variants, those of the variant that was chosen."""
    models: list[type[BaseModel]] = [RunConfig]
    here: Any = content
    for key in parents:
        here = here[int(key)] if isinstance(here, list) else here.get(key, {})
        if key.isdigit():
            continue
        found = [model.model_fields[key] for model in models if key in model.model_fields]
        models = [inner for field in found for inner in _models_in(field.annotation)]
        chosen = [model for model in models if _tags(model) & {value for value in _values(here) if isinstance(value, str)}]
        models = chosen or models
    return [name for model in models for name in model.model_fields]


def _known(parents: Sequence[str], content: Mapping[str, Any]) -> str:
    return f"; known keys: {', '.join(_fields_at(parents, content))}"


def _values(here: Any) -> Iterator[Any]:
    yield from here.values() if isinstance(here, Mapping) else ()


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
