"""Search spaces: which options tuning may choose, and from which values; plain frozen data that a user can narrow.

A preset's space stands in ``Algorithm.search_space``. What a user writes for an option, in a file or with ``--set``, is one of
    0.001..0.1          a range; ``log`` or ``linear`` after it, and ``step 16`` for whole numbers: ``16..256 log``
    [16, 32, 64]        choices
    {"low": 0.001, "high": 0.1, "log": true}, {"values": [16, 32]}
    0.01                one value: the option is no longer tuned
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import InvalidOptionError

if TYPE_CHECKING:
    from algorithms.spec import Algorithm

_RANGE = re.compile(r"\s*([-+.\deE]+)\s*\.\.\s*([-+.\deE]+)\s*(?:(log|linear)\b)?\s*(?:step\s+(\d+))?\s*")
_HINT = (
    "Write a range (0.001..0.1 log), choices ([16, 32]) or one value; `atelier algorithms show {name}` lists every option with its limits."
)


class _Range(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Float(_Range):
    """A number in [low, high]; ``log``: its logarithm is spread evenly."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Float:
        return _checked(self)


class Int(_Range):
    """A whole number in [low, high], in steps; ``log`` goes with steps of 1 only."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Int:
        if self.log and self.step != 1:
            raise ValueError("log goes with steps of 1 only")
        return _checked(self)


class Choice(_Range):
    """One of these JSON values, without an order."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)


Range = Float | Int | Choice
SearchSpace = dict[str, Range]


def _checked(found: Any) -> Any:
    if not (math.isfinite(found.low) and math.isfinite(found.high)) or found.low >= found.high:
        raise ValueError(f"low must be below high, both finite (got {found.low:g} and {found.high:g})")
    if found.log and found.low <= 0:
        raise ValueError(f"a logarithmic range must begin above 0 (got {found.low:g})")
    return found


def is_range(algorithm: Algorithm, name: str, value: Any) -> bool:
    """Whether ``value`` describes several values of an option, and not one. A list is a value where the option takes lists."""
    if isinstance(value, str):
        return _RANGE.fullmatch(value) is not None
    if isinstance(value, dict):
        return bool({"low", "high", "values"} & set(value))
    return isinstance(value, list | tuple) and name in algorithm.config_type.model_fields and _fault(algorithm, {}, name, value) != ""


def split_options(algorithm: Algorithm, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a user set, as (options with one value, which are not tuned; ranges for ``narrow``)."""
    ranges = {name: value for name, value in options.items() if is_range(algorithm, name, value)}
    return {name: value for name, value in options.items() if name not in ranges}, ranges


# Options that pose the question instead of answering it.
_QUESTION = ("target",)


def narrow(algorithm: Algorithm, options: Mapping[str, Any], overrides: Mapping[str, Any], fixed: Sequence[str] = ()) -> SearchSpace:
    """The preset's space with a user's ranges in place of its own, without the options that are fixed.

    Args:
        options: the whole config, JSON values; what is not tuned keeps its value.
        overrides: by option, as this module's docstring says. An option outside the preset's space is tuned too.
        fixed: options that keep their value from ``options``.

    Raises:
        InvalidOptionError: unknown options (with the nearest names), ranges that the options do not allow, nothing left; all faults at once.
    """
    problems: list[str] = []
    known = list(algorithm.config_type.model_fields)
    space: SearchSpace = {name: found for name, found in algorithm.search_space.items() if name not in fixed}
    for name in (name for name in fixed if name not in known):
        problems.append(f"{name}: there is no such option{_nearest(name, known)}")
    for name, value in overrides.items():
        if name not in known:
            problems.append(f"{name}: there is no such option{_nearest(name, known)}")
            continue
        if name in _QUESTION:
            problems.append(f"{name}: it says what is to be learned, so trials with other values could not be compared; give it one value")
            continue
        try:
            found = _parse(algorithm, name, value)
        except (ValueError, TypeError) as error:
            problems.append(f"{name}: {_sentence(error)} (got {json.dumps(value, default=str)})")
            continue
        bad = [fault for edge in _edges(found) if (fault := _fault(algorithm, options, name, edge))]
        problems += bad
        if not bad:
            space[name] = found
    if not problems and not space:
        problems.append("every option is fixed: nothing is left to tune")
    if problems:
        raise InvalidOptionError(f"the search space of {algorithm.name}", problems, _HINT.format(name=algorithm.name))
    return dict(sorted(space.items()))


def read_space(path: str) -> dict[str, Any]:
    """A search-space file, TOML (``*.toml``) or JSON, as overrides for ``narrow``.

    Raises:
        InvalidOptionError: it cannot be read, or holds no table of options.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        space = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InvalidOptionError(
            "the search space", [f"space: {path}: {reason}"], "It must be a TOML or JSON file: option = range."
        ) from None
    if not isinstance(space, dict):
        raise InvalidOptionError(
            "the search space", [f"space: {path}: must hold an object, option by option, not a {type(space).__name__}"]
        )
    return space


def default_values(algorithm: Algorithm, options: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """Where the config itself lies in the space, as far as it does: the values of the first trial."""
    return {name: place for name, found in space.items() if (place := _place(algorithm, options, name, found)) is not None}


def inside(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some values (of an earlier study) that this space allows."""
    return {name: value for name, value in values.items() if name in space and contains(space[name], value)}


def in_words(found: Range) -> str:
    """A range as a user would write it."""
    if isinstance(found, Choice):
        return json.dumps(list(found.values))
    step = f" step {found.step}" if isinstance(found, Int) and found.step != 1 else ""
    return f"{found.low:g}..{found.high:g}{' log' if found.log else ''}{step}"


def contains(found: Range, value: Any) -> bool:
    """Whether a range allows a value."""
    if isinstance(found, Choice):
        return value in found.values
    if isinstance(value, bool) or not isinstance(value, int | float) or not found.low <= value <= found.high:
        return False
    return isinstance(found, Float) or (float(value).is_integer() and (value - found.low) % found.step == 0)


def grid(found: Range, num_points: int) -> list[Any]:
    """A few values of a range for a grid, evenly spread from low to high; all choices."""
    if isinstance(found, Choice):
        return list(found.values)
    low, high = (math.log(found.low), math.log(found.high)) if found.log else (found.low, found.high)
    num = max(2, num_points)
    points = [low + (high - low) * i / (num - 1) for i in range(num)]
    values = [min(max(math.exp(point) if found.log else point, found.low), found.high) for point in points]
    if isinstance(found, Float):
        return values
    top = found.low + (found.high - found.low) // found.step * found.step
    return sorted({min(found.low + round((value - found.low) / found.step) * found.step, top) for value in values})


def _place(algorithm: Algorithm, options: Mapping[str, Any], name: str, found: Range) -> Any:
    if not isinstance(found, Choice):
        value = options.get(name)
        return value if contains(found, value) else None
    wanted = getattr(algorithm.config(options), name)
    # Compared as the option understands them: "256,128" is (256, 128).
    return next((value for value in found.values if getattr(algorithm.config({**options, name: value}), name) == wanted), None)


def _edges(found: Range) -> list[Any]:
    return list(found.values) if isinstance(found, Choice) else [found.low, found.high]


def _fault(algorithm: Algorithm, options: Mapping[str, Any], name: str, value: Any) -> str:
    """What the option says against a value; empty if it takes it."""
    try:
        algorithm.config({**options, name: value})
    except ValidationError as error:
        for fault in error.errors():
            if fault["loc"] and fault["loc"][0] == name:
                return f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]} (got {value!r})"
    return ""


def _parse(algorithm: Algorithm, name: str, value: Any) -> Range:
    own = algorithm.search_space.get(name)
    if isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        low, high, scale, step = match.groups()
        value = {"low": float(low), "high": float(high)}
        value |= {"log": scale == "log"} if scale else {}
        value |= {"step": int(step)} if step else {}
    if isinstance(value, list | tuple):
        value = {"values": list(value)}
    if not isinstance(value, dict):
        value = {"values": [value]}
    value = {key: part for key, part in value.items() if key != "kind"}
    if "values" in value:
        return Choice.model_validate(value)
    whole = _takes(algorithm.config_type.model_fields[name].annotation)
    if not whole:
        raise ValueError("this option is no number; give choices")
    if "log" not in value and isinstance(own, Float | Int) and value.get("low", 0) > 0 and "step" not in value:
        value["log"] = own.log
    return Float.model_validate(value) if "float" in whole else Int.model_validate(value)


def _takes(annotation: Any) -> set[str]:
    """Which numbers an annotation allows: of ``float | None`` it is ``{"float"}``."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_takes(part) for part in typing.get_args(annotation)))
    if origin is typing.Annotated:
        return _takes(typing.get_args(annotation)[0])
    return {annotation.__name__} if annotation in (int, float) else set()


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        faults = [(".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
        return "; ".join(f"{where}: {words}" if where else words for where, words in faults)
    return str(error)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else f"; options are {', '.join(known[:12])}, ..."
