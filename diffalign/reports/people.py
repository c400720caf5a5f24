"""People's votes on base against aligned, from evaluation/people.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from diffalign.reports.comparison import confidence_text
from diffalign.reports.numbers import ABSENT, count, finite, plural
from diffalign.reports.row import Verdict

_COLOURS: dict[Verdict, str] = {"rose": "green", "fell": "red", "unclear": "yellow", "unknown": ""}


@dataclass(frozen=True)
class PeopleRow:
    """One person's votes, or everybody's.

    Attributes:
        name: who; empty for everybody.
        tally: wins / ties / both bad / losses of aligned.
        rate, interval: win rate of aligned over base, as text.
        verdict: "rose" where the interval lies above one half, "fell" below.
    """

    name: str
    prompts: str
    votes: str
    tally: str
    rate: str
    interval: str
    verdict: Verdict


def people_rows(people: Mapping[str, Any]) -> list[PeopleRow]:
    """Everybody together first; each by themselves where there are several."""
    raters = people.get("raters")
    several = list(raters.items()) if isinstance(raters, dict) and len(raters) > 1 else []
    return [_row(name, entry) for name, entry in [("", people.get("all")), *several] if isinstance(entry, dict)]


def people_notes(people: Mapping[str, Any]) -> list[str]:
    """What was counted how, how far people agree, and whether they lean to a side."""
    every = people.get("all")
    asked, judged = count(people.get("pairs")), count(every.get("prompts")) if isinstance(every, dict) else None
    notes = []
    if asked is not None and judged is not None:
        notes.append(
            f"{judged} of {plural(asked, 'held-out pair')} judged by people who did not know which picture is whose"
        )
    notes.append("win rate: of aligned over base; a tie and both bad count half a win, people are averaged per prompt")
    if (resamples := count(people.get("resamples"))) is not None:  # older ones
        notes.append(f"intervals ({confidence_text(people)}) by bootstrap over prompts ({resamples:,} resamples)")
    else:
        notes.append(f"intervals ({confidence_text(people)}) over prompts, Wilson's")
    notes += _agreement(people.get("agreement"))
    left = people.get("left")
    if isinstance(left, dict) and not math.isnan(share := finite(left.get("value"))):
        low, high = (100 * finite(left.get(end)) for end in ("low", "high"))
        notes.append(
            f"{100 * share:.0f} % of these choices were the left picture (95 % interval {low:.0f} to {high:.0f})"
        )
    return notes


def people_table(people: Mapping[str, Any]) -> Table:
    """For the terminal."""
    table = Table(
        title="base against aligned, by people",
        caption=Text("; ".join(people_notes(people))),
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("who", overflow="fold")
    for column in ("prompts", "votes", "wins/ties/\nbad/losses", "win rate of\naligned"):
        table.add_column(column, justify="right")
    for row in people_rows(people):
        rate = Text(row.rate, style=_COLOURS[row.verdict])
        if row.interval:
            rate.append(f"\n[{row.interval.replace(' to ', ', ')}]")
        table.add_row(
            Text(row.name or "all", style="bold"), row.prompts, row.votes, row.tally.replace(" / ", "/"), rate
        )
    return table


def _row(name: str, entry: Mapping[str, Any]) -> PeopleRow:
    rate, low, high = (finite(entry.get(key)) for key in ("win_rate", "win_rate_low", "win_rate_high"))
    verdict: Verdict = "unknown"
    if not math.isnan(low + high):
        verdict = "rose" if low > 0.5 else "fell" if high < 0.5 else "unclear"
    return PeopleRow(
        name=name,
        prompts=_whole(entry.get("prompts")),
        votes=_whole(entry.get("votes")),
        tally=" / ".join(_whole(entry.get(key)) for key in ("wins", "ties", "bad", "losses")),
        rate=ABSENT if math.isnan(rate) else f"{100 * rate:.1f} %",
        interval="" if verdict == "unknown" else f"{100 * low:.1f} to {100 * high:.1f}",
        verdict=verdict,
    )


def _whole(value: Any) -> str:
    number = count(value)
    return ABSENT if number is None else str(number)


def _agreement(found: Any) -> list[str]:
    """Of two people kappa, of more alpha."""
    pairs = found.get("pairs") if isinstance(found, dict) else None
    pairs = [two for two in pairs if isinstance(two, dict)] if isinstance(pairs, list) else []
    if len(pairs) > 1:
        alpha = finite(found.get("alpha"))
        return [f"agreement: Krippendorff's alpha {'undefined' if math.isnan(alpha) else f'{alpha:.2f}'}"]
    if not pairs or not count(pairs[0].get("common")):
        return []
    share, kappa = finite(pairs[0].get("agreement")), finite(pairs[0].get("kappa"))
    beyond = "undefined" if math.isnan(kappa) else f"{kappa:.2f}"
    common = plural(count(pairs[0].get("common")) or 0, "pair")
    return [f"agreement: the same answer on {100 * share:.0f} % of {common}, Cohen's kappa {beyond}"]
