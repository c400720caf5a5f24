"""Types of values that several sections of the settings have."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
LocalPath = Annotated[
    str, AfterValidator(os.path.expanduser)
]  # a path, or a name of another kind; ~ is the home folder
