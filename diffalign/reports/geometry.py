"""Lines of the before/after table that only shapes have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffalign.reports.numbers import Scale, count, finite, plain, plural, scale_for
from diffalign.reports.row import Row, mapping

_SIDES = {
    "volume": "share of the grid that is filled",
    "pieces": "parts that share no face",
    "diversity_within": "mean 1 - IoU between shapes of one prompt",
}
_SAME = {"chamfer": 0.0, "f_score": 1.0, "shared": 1.0}  # of equal shapes; chamfer: at its floor, where that is told


def geometry_rows(summary: Mapping[str, Any]) -> list[Row]:
    """How full, how whole and how unlike they are, how far they moved from those of the base model, and what was empty."""
    geometry = mapping(summary.get("geometry"))
    rows = [_sides_row(name, note, mapping(geometry.get(name))) for name, note in _SIDES.items()]
    rows += [_moved_row(name, geometry) for name in _SAME]
    return [row for row in (*rows, _empty_row(geometry)) if row is not None]


def _sides_row(name: str, note: str, entry: Mapping[str, Any]) -> Row | None:
    base, aligned, difference, low, high = (
        finite(entry.get(key)) for key in ("base", "aligned", "difference", "low", "high")
    )
    if math.isnan(aligned):
        return None
    scale = scale_for(name == "volume", low, high, [base, aligned])
    return Row(name.replace("_", " "), "", note, base, aligned, difference, low, high, scale, is_form=True)


def _moved_row(name: str, geometry: Mapping[str, Any]) -> Row | None:
    """A figure between the two models; beside it that of equal shapes, and of two draws of the base model."""
    aligned, floor = finite(geometry.get(name)), finite(geometry.get(f"{name}_floor"))
    if math.isnan(aligned):
        return None
    same = _SAME[name] if math.isnan(floor) else floor
    how = "" if math.isnan(floor) else ", its surface sampled twice"
    told = f"{name}: aligned to base of the same prompt and seed {plain(aligned, 3)}"
    note = f"to the base model's shape of the same prompt and seed ({plain(same, 2)}: the same{how})"
    draws = finite(mapping(geometry.get("two_draws")).get(name))
    if not math.isnan(draws):
        told += f", two draws of the base model for one prompt {plain(draws, 3)}"
        note += f"; two draws of the base model: {plain(draws, 3)}"
    scale = scale_for(False, math.nan, math.nan, [same, aligned])
    return Row(name, "", note, same, aligned, aligned - same, math.nan, math.nan, scale, told=f"{told}.", is_form=True)


def _empty_row(geometry: Mapping[str, Any]) -> Row | None:
    listed = geometry.get("empty")
    counts = [count(each) for each in listed] if isinstance(listed, list) else []
    if len(counts) != 2 or None in counts or counts == [0, 0]:
        return None
    base, aligned = (float(number or 0) for number in counts)
    told = (
        f"empty: {plural(round(base), 'shape')} of the base model and {round(aligned)} of the aligned one have no filled "
        "cell, and volume, pieces, chamfer, f_score and shared leave these pairs out."
    )
    note = "shapes without a filled cell"
    return Row(
        "empty", "", note, base, aligned, aligned - base, math.nan, math.nan, Scale(False, 0), told=told, is_form=True
    )
