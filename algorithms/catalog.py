"""What can be learned: the algorithms that ship are one literal tuple, users' own come as plugins.

A plugin is an entry point in the group ``atelier.algorithms`` that names an ``Algorithm`` or a list of them. Nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import entry_points

from algorithms.images.presets import IMAGE_PRESETS
from algorithms.spec import Algorithm
from algorithms.tables.presets import TABLE_PRESETS
from infra.errors import UnknownAlgorithmError, UserCodeError

PLUGIN_GROUP = "atelier.algorithms"

ALGORITHMS: tuple[Algorithm, ...] = (*IMAGE_PRESETS, *TABLE_PRESETS)


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of a name; plugins are loaded only if it is none of ours.

    Raises:
        UnknownAlgorithmError: with the nearest names.
        UserCodeError: a plugin does not load, and nothing else has the name.
    """
    for algorithm in ALGORITHMS:
        if algorithm.name == name:
            return algorithm
    plugins, broken = load_plugins()
    for algorithm in plugins:
        if algorithm.name == name:
            return algorithm
    if broken and not _nearest(name, (*ALGORITHMS, *plugins)):
        raise broken[0]
    raise UnknownAlgorithmError(name, _nearest(name, (*ALGORITHMS, *plugins)))


def list_algorithms() -> tuple[list[Algorithm], list[UserCodeError]]:
    """Ours and the plugins', and what kept plugins from loading."""
    plugins, broken = load_plugins()
    return [*ALGORITHMS, *plugins], broken


def load_plugins() -> tuple[list[Algorithm], list[UserCodeError]]:
    """The algorithms of installed plugins; one that does not load is named, and does not keep the others from loading."""
    found: list[Algorithm] = []
    broken: list[UserCodeError] = []
    for entry in entry_points(group=PLUGIN_GROUP):
        try:
            value = entry.load()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is reported by name
            broken.append(UserCodeError(entry.value, f"the plugin {entry.name!r} does not load: {type(error).__name__}: {error}"))
            continue
        values = [value] if isinstance(value, Algorithm) else list(value) if isinstance(value, Iterable) else [value]
        wrong = [type(item).__name__ for item in values if not isinstance(item, Algorithm)]
        taken = {algorithm.name for algorithm in (*ALGORITHMS, *found)}
        if wrong:
            broken.append(UserCodeError(entry.value, f"the plugin {entry.name!r} gives {', '.join(wrong)}, not algorithms.spec.Algorithm"))
        elif twice := [item.name for item in values if item.name in taken]:
            broken.append(UserCodeError(entry.value, f"the plugin {entry.name!r} uses names that are taken: {', '.join(twice)}"))
        else:
            found += values
    return found, broken


def _nearest(name: str, known: Iterable[Algorithm]) -> list[str]:
    """Names like this one: as a whole, or only its part after the slash."""
    names = [algorithm.name for algorithm in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    short = {known_name.split("/")[-1]: known_name for known_name in names}
    near += [short[part] for part in difflib.get_close_matches(name.split("/")[-1], short, n=3, cutoff=0.6)]
    return list(dict.fromkeys(near))[:3]
