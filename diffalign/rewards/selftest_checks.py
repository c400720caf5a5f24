"""What a check of a reward says, and how checks are run: none of them ends the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


class TestFailure(Exception):
    """A check found that it is not so."""

    __test__ = False  # pytest takes the name for a class of tests


class NotApplicable(Exception):
    """A check has nothing to look at."""


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Attributes:
        name: of the check.
        passed: None where it does not apply.
        detail: what was seen, or why it does not apply.
    """

    name: str
    passed: bool | None
    detail: str


def passed(checks: Sequence[Check]) -> bool:
    """Whether none of them failed."""
    return all(check.passed is not False for check in checks)


def run_checks(checks: Iterable[tuple[str, Callable[[], str]]]) -> list[Check]:
    """Run checks, which say what they saw, or raise."""
    done = []
    for name, check in checks:
        try:
            done.append(Check(name, True, check()))
        except TestFailure as failure:
            done.append(Check(name, False, str(failure)))
        except NotApplicable as why:
            done.append(Check(name, None, str(why)))
        except Exception as error:  # whatever a reward raises where it should score or say why not
            done.append(Check(name, False, f"raised {type(error).__name__}: {cut(str(error), 200)}"))
    return done


def cut(text: str, most: int) -> str:
    """The beginning of a text that is too long, with dots that say so."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
