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

from diffalign.config.run import RunConfig, method_problems
from diffalign.config.yaml_values import read_yaml, write_yaml
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
    close = _similar_configs(str(name))
    if len(close) > 2:
        hint = f"; did you mean one of {Path(close[0]).parent}/, such as {close[0]!r}?"
    else:
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ConfigError(
        f"no config {str(name)!r} in ./, ./configs or among the packaged ones, which diffalign list configs shows{hint}"
    )


def _similar_configs(name: str) -> list[str]:
    """The configs that a misspelt name may mean: those of a folder, or the one of the nearest name."""
    there = list_configs()
    folders = {str(Path(each).parent) for each in there} - {"."}
    if near := difflib.get_close_matches(name.strip("/"), folders, n=1, cutoff=0.7):
        return [each for each in there if str(Path(each).parent) == near[0]]
    spellings = {spelling: each for each in reversed(there) for spelling in (Path(each).stem, Path(each).name, each)}
    return [spellings[each] for each in difflib.get_close_matches(name, spellings, n=1)]


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, apply `a.b=c` overrides and validate.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    path = find_config(name)
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not isinstance(content, dict):
        seen = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ConfigError(f"{path}: {seen}; a config has sections such as 'model:' (see diffalign list configs)")
    return parse_config(content, overrides, source=str(path))


def parse_config(content: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "the config") -> RunConfig:
    """Validate a nested dict.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    try:
        merged = _copy(content)
    except RecursionError:
        raise ConfigError(f"{source}: a YAML alias refers to itself") from None
    refused = [problem for override in overrides if (problem := _apply(merged, override))]
    if refused:
        raise ConfigError("\n".join(refused))
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        objective, model = _section(merged, "objective"), _section(merged, "model")
        sentences = [*method_problems(objective.get("name"), model.get("family"))]
        sentences += [_sentence(item, merged) for item in error.errors(include_url=False)]
    problems = list(dict.fromkeys(line for sentence in sentences for line in sentence.splitlines()))
    noun = "problem" if len(problems) == 1 else "problems"
    raise ConfigError("\n".join([f"{len(problems)} {noun} in {source}", *(f"  {problem}" for problem in problems)]))


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(write_yaml(config.model_dump(mode="json")), encoding="utf-8")
    os.replace(draft, path)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same settings, meaning the same files from any folder; what is not a local path stays as it is."""

    def local(path: str | None) -> str | None:
        return path if path is None or not Path(path).exists() else str(Path(path).absolute())

    cache, lora = config.data.cache, config.model.lora
    data = {"path": local(config.data.path), "cache": None if cache is None else str(Path(cache).absolute())}
    return config.model_copy(
        update={
            "folder": str(Path(config.folder).absolute()),
            "model": config.model.model_copy(
                update={
                    "path": local(config.model.path),
                    "config": local(config.model.config),
                    "lora": lora.model_copy(update={"start": local(lora.start)}),
                }
            ),
            "data": config.data.model_copy(update=data),
            "evaluation": config.evaluation.model_copy(update={"prompts": local(config.evaluation.prompts)}),
        }
    )


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _copy(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _copy(value) for key, value in content.items()}
    return [_copy(value) for value in content] if isinstance(content, list | tuple) else content


def _apply(content: dict[str, Any], override: str) -> str | None:
    """Put one override in; what is wrong with it, or None."""
    path, equals, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        return f"--set {override!r}: must look like section.key=value, for example optimizer.learning_rate=1e-4"
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        value = text
    here = content
    for depth, key in enumerate(keys[:-1]):
        inner = here.get(key)
        if inner is None:
            inner = here[key] = {}
        if not isinstance(inner, dict):
            kind = "a list: set it as a whole" if isinstance(inner, list) else "a value, not a section"
            return f"--set {override!r}: {'.'.join(keys[: depth + 1])} is {kind}"
        here = inner
    here[keys[-1]] = _copy(value)
    return None


_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_SECTION_EXPECTED = ("model_type", "model_attributes_type", "dict_type")


def _sentence(item: ErrorDetails, content: Mapping[str, Any]) -> str:
    """One problem as `dotted.path: what was expected, what was seen`."""
    keys = _written_keys(item["loc"], content)
    path = ".".join(keys)
    kind, context, seen = item["type"], item.get("ctx", {}), _shown(item["input"])
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
    if kind == "string_pattern_mismatch":
        return f"{path}: must match {context['pattern']}, got {seen}"
    if kind in _SECTION_EXPECTED:
        return f"{path}: must be a section of keys, got {seen}; known keys: {', '.join(_fields_at(keys, content))}"
    if kind in ("tuple_type", "list_type"):
        return f"{path}: must be a list, got {seen}"
    hint = "; write null for none" if str(item["input"]).lower() == "none" else ""
    expected = item["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{path}: must be {expected}, got {seen}{hint}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _closest(seen: Any, expected: str) -> str:
    names = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
    close = difflib.get_close_matches(str(seen), names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _hint_for_unknown(keys: Sequence[str], content: Mapping[str, Any]) -> str:
    *parents, key = keys
    if "." in key:
        return f"; in a file, sections are nested: write '{key.split('.')[-1]}:' inside '{key.split('.')[0]}:'"
    known = _fields_at(parents, content)
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    if parents == ["objective"]:  # another method in the place of a file's own leaves that one's settings behind
        name = content["objective"]["name"]
        return f" of {name}; known keys: {', '.join(known)}; to change the method: --set 'objective={{name: {name}}}'"
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
    models: list[type[BaseModel]] = [RunConfig]
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
