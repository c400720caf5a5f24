"""From YAML to settings: where a config is looked for, `a.b=c` overrides, and every problem in one message."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from diffalign.config.fields import is_text
from diffalign.config.method_problems import method_problems
from diffalign.config.problems import sentence, shown
from diffalign.config.reward_run import RewardRunConfig
from diffalign.config.run import RunConfig
from diffalign.config.yaml_values import read_yaml, write_yaml
from diffalign.exceptions import ConfigError

AnyConfig = RunConfig | RewardRunConfig
_LARGEST = 2**63
_PACKAGE = Path(__file__).resolve().parents[1]


def config_homes() -> list[Path]:
    """Folders in which a bare config name is looked up, in this order; the last one ships with diffalign."""
    installed, checkout = _PACKAGE / "configs", _PACKAGE.parent / "configs"
    return [Path("."), Path("configs"), installed if installed.is_dir() else checkout]


def list_configs() -> list[str]:
    """Names of the configs that ship with diffalign, for example `quickstart/diffusion_dpo.yaml`."""
    home = config_homes()[-1]
    return sorted(str(path.relative_to(home)) for path in home.rglob("*.yaml"))


def config_summary(name: str) -> str:
    """What a shipped config does: its first comment, as far as the first colon, full stop or "with the settings of"."""
    told: list[str] = []
    for line in (config_homes()[-1] / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        told.append(line.lstrip("# "))
    return re.split(r", with the settings|\.(?=\s+[A-Z]|$)|:(?=\s)", " ".join(told), maxsplit=1)[0].strip()


def find_config(name: str | Path) -> Path:
    """Find a config file by path or by name.

    Raises:
        ConfigError: no such file; says where it was looked for and what is there.
    """
    for home in config_homes():
        for candidate in (home / name, home / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    if Path(name).is_dir():
        raise ConfigError(f"{name}: is a folder, not a config file; name a .yaml in it")
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


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a config file, apply `a.b=c` overrides and validate.

    Returns:
        The settings of a run that aligns a model, or with `task: reward` of one that trains a reward.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    path = find_config(name)
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not isinstance(content, dict):
        seen = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ConfigError(f"{path}: {seen}; a config has sections such as 'model:' (see diffalign list configs)")
    return parse_config(content, overrides, source=str(path))


def load_alignment(name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The same for what aligns a model and nothing else.

    Raises:
        ConfigError: it is of another task, or what `load_config` raises.
    """
    config = load_config(name, overrides)
    if not isinstance(config, RunConfig):
        raise ConfigError(
            f"task: {name} is of task: {config.task}, and this is for runs that align a model; what a trained reward "
            "is worth stands in its run's held_out.json, and diffalign rewards bench measures it"
        )
    return config


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")


def parse_config(content: Mapping[Any, Any], overrides: Sequence[str] = (), *, source: str = "the config") -> AnyConfig:
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
    sentences = [*_unusable(merged, "")]
    if not sentences and merged.get("task", "reward") != "reward":
        told = shown(merged["task"])
        sentences = [f"task: must be 'reward', or be left out of a config that aligns a model, got {told}"]
    elif not sentences and "task" in merged:
        try:
            return RewardRunConfig.model_validate(merged)
        except ValidationError as error:
            sentences = [sentence(item, merged) for item in error.errors(include_url=False)]
    elif not sentences:
        try:
            return RunConfig.model_validate(merged)
        except ValidationError as error:
            objective, model = _section(merged, "objective"), _section(merged, "model")
            draws = merged.get("online") is not None
            sentences = [*method_problems(objective.get("name"), model.get("family"), draws=draws)]
            sentences += [sentence(item, merged) for item in error.errors(include_url=False)]
    problems = list(dict.fromkeys(line for sentence in sentences for line in sentence.splitlines()))
    noun = "problem" if len(problems) == 1 else "problems"
    raise ConfigError("\n".join([f"{len(problems)} {noun} in {source}", *(f"  {problem}" for problem in problems)]))


def save_config(config: AnyConfig, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(write_yaml(config.model_dump(mode="json")), encoding="utf-8")
    os.replace(draft, path)


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _copy(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _copy(value) for key, value in content.items()}
    return [_copy(value) for value in content] if isinstance(content, list | tuple) else content


def _unusable(content: Any, path: str) -> Iterator[str]:
    """Numbers that no computer counts with (seeds and sizes end at 64 bits), and text that no file can hold."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _unusable(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, int) and abs(content) >= _LARGEST:
        yield f"{path}: must be from -2^63 to 2^63, got a number of {content.bit_length()} bits"
    elif isinstance(content, str) and not is_text(content):
        yield f"{path}: must be text without NUL bytes and lone surrogates, got {shown(content)}"


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
