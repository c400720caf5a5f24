"""Settings of the objectives on groups, scores and labels."""

from __future__ import annotations
