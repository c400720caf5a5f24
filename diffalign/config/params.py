"""The base of every settings class: frozen, strict about unknown keys, checked by pydantic. Imports no torch."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Params(BaseModel):
    """Frozen settings; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """Pydantic takes true for 1; as text it is refused like any other word."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if _is_number(field.annotation)}
        return {
            key: str(value).lower() if isinstance(value, bool) and key in numbers else value
            for key, value in values.items()
        }


def _is_number(annotation: Any) -> bool:
    return (_takes(annotation, int) or _takes(annotation, float)) and not _takes(annotation, bool)


def _takes(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_takes(inner, kind) for inner in get_args(annotation))
