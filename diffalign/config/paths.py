"""Settings that mean the same files from any folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from diffalign.config.fields import IS_FOLDER, IS_PATH
from diffalign.config.params import Params

_Params = TypeVar("_Params", bound=Params)


def with_absolute_paths(params: _Params) -> _Params:
    """The same settings, meaning the same files from any folder.

    Every `OwnFolder` becomes absolute, and every `LocalPath` that is there, at any depth; what is another kind of name, or
    is not there, stays as it is.
    """
    found = {name: _absolute(getattr(params, name), field) for name, field in type(params).model_fields.items()}
    return params.model_copy(update=found)


def _absolute(value: Any, field: Any) -> Any:
    if isinstance(value, Params):
        return with_absolute_paths(value)
    if isinstance(value, tuple):
        return tuple(with_absolute_paths(each) if isinstance(each, Params) else each for each in value)
    if not isinstance(value, str):
        return value
    kinds = [*field.metadata, *_notes(field.annotation)]
    if any(kind is IS_FOLDER for kind in kinds) or (any(kind is IS_PATH for kind in kinds) and Path(value).exists()):
        return str(Path(value).absolute())
    return value


def _notes(annotation: Any) -> Iterator[Any]:
    """What stands beside the types that an annotation is made of."""
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _notes(inner)
