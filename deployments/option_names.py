"""What was typed, in messages: the flows name their parameters (``max_accuracy_loss``), the command line its options (``--max-accuracy-loss``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import click

from infra.errors import AtelierError, InvalidOptionError

# A parameter is named at the beginning of a fault ("trials: ...") or, anywhere, in backquotes.
_NAMED = re.compile(r"\A([a-z_]+)(?=: )|`([a-z_]+)`")


def called_command(group: click.Command, words: Sequence[str]) -> click.Command:
    """The innermost command that these words call."""
    command, rest = group, list(words)
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            break
        command, rest = found, rest[1:]
    return command


def typed_names(command: click.Command) -> dict[str, str]:
    """A command's options by the parameter that each is given to: ``{"ratios": "--splits"}``."""
    return {
        option.name: max(option.opts, key=len) for option in command.params if isinstance(option, click.Option) and option.name is not None
    }


def as_typed(error: AtelierError, names: Mapping[str, str]) -> AtelierError:
    """The error with options in place of the parameters that it names; of another kind, and in other places, it stays as it is."""
    if not isinstance(error, InvalidOptionError):
        return error

    def name(match: re.Match[str]) -> str:
        return names.get(match[1] or match[2], match[0])

    return InvalidOptionError(error.what, [_NAMED.sub(name, one) for one in error.problems], _NAMED.sub(name, error.hint))
