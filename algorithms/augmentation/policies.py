"""Policies for pictures by name, and what a user writes turned into steps. Nothing here imports torch."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from algorithms.augmentation import steps as s
from algorithms.user_code import is_dotted
from infra.errors import InvalidOptionError

Policy = tuple[s.Step, ...]

# Every step is a policy of its own too, under its own name and with its defaults.
POLICIES: dict[str, Policy] = {
    "none": (),
    "photo": (s.Crop(), s.Flip(), s.Colour()),
    "strong": (s.Crop(scale=(0.4, 1.0)), s.Flip(), s.TrivialAugment(), s.Erasing(), s.CutMix(p=0.5)),
    **{name: (step(name=name),) for name, step in s.BY_NAME.items()},
}


def parse_policy(value: str | Sequence[Mapping[str, Any]]) -> Policy:
    """The steps of a policy: its name, the dotted name of one's own, or a list of ``{"name": ..., argument: ...}``.

    Raises:
        ValueError: what is wrong, with all faults of a list at once.
    """
    if isinstance(value, str):
        if value in POLICIES:
            return POLICIES[value]
        if is_dotted(value):
            return (s.Own(name=value),)
        raise ValueError(_unknown("policy", value, POLICIES) + ", the dotted name of your own, or a list of steps")
    found: list[s.Step] = []
    problems: list[str] = []
    for number, entry in enumerate(value, start=1):
        try:
            found.append(_step(entry))
        except ValidationError as error:
            problems += [f"step {number}: {_told(one)}" for one in error.errors()]
        except ValueError as error:
            problems.append(f"step {number}: {error}")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(found)


def check_no_flip(no_flip: Collection[str], classes: Collection[str]) -> None:
    """Refuse names that are no class: a slip there would flip what must not be flipped.

    Raises:
        InvalidOptionError: with the nearest names.
    """
    problems = [f"no_flip: {_unknown('class', name, classes)}" for name in no_flip if name not in classes]
    if problems:
        raise InvalidOptionError("augmentation", problems)


def own_names(value: Any) -> list[str]:
    """The dotted names in the value of an ``augment`` option."""
    names = [value] if isinstance(value, str) else [entry.get("name") for entry in value or () if isinstance(entry, Mapping)]
    return [name for name in names if isinstance(name, str) and is_dotted(name)]


def _step(entry: Any) -> s.Step:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f'{entry!r} is not an object with a "name"')
    name = str(entry["name"])
    if is_dotted(name):
        own = {key: value for key, value in entry.items() if key not in ("name", "p")}
        return s.Own(name=name, arguments=own, p=entry.get("p", 1.0))
    if name not in s.BY_NAME:
        raise ValueError(_unknown("step", name, s.BY_NAME) + ", or the dotted name of your own")
    return s.BY_NAME[name].model_validate(dict(entry))


def _told(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such argument"
    came = "" if error["type"] == "value_error" else f" (it is {error['input']!r})"
    return f"{where}: {error['msg']}{came}" if where else str(error["msg"]).removeprefix("Value error, ")


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    listed = ", ".join(list(known)[:40]) + (" ..." if len(known) > 40 else "")
    return f"there is no {kind} {name!r}{nearest}. Allowed: {listed}"
