"""The text of a zoo model's card."""

from __future__ import annotations

from collections import defaultdict

from makers.shapes_card import SUMMARIES, _card


def test_the_summary_keeps_its_names_as_they_are_spelt():
    for summary in SUMMARIES.values():
        card = defaultdict(float, summary=summary, strict_by_kind={"one": 0.5}, parameters={"unet": 7}, seeds="0 to 1")
        text = _card("shapes", card, ["a red circle"])
        assert f"\n{summary[0].upper()}{summary[1:]}. The real" in text
