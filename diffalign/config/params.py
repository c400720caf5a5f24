"""The base of every settings class: frozen, strict about unknown keys, checked by pydantic. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """Frozen settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True, validate_default=True)
