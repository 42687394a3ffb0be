"""Users' own models, losses and optimizers, named by dotted path: found, called with what they accept, and blamed by name when they fail."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from infra.errors import AtelierError, UserCodeError

_OURS = [Path(__file__).resolve().parents[1] / floor for floor in ("infra", "algorithms", "tasks", "flows", "deployments")]
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


def is_dotted(name: str) -> bool:
    """Whether a name can only be a dotted path, not one of ours."""
    return "." in name or ":" in name


def load_dotted(name: str) -> Any:
    """The object at ``package.module:attribute`` or ``package.module.attribute``; the working folder is importable.

    Raises:
        UserCodeError: what was tried and why it did not work.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    module_name, _, path = name.partition(":")
    if path:
        candidates = [(module_name, path)]
    else:
        parts = name.split(".")
        candidates = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(len(parts) - 1, 0, -1)]
    if not candidates or not all(part.isidentifier() for part in name.replace(":", ".").split(".")):
        raise UserCodeError(name, "this is not a dotted name. Write it as package.module:attribute.")
    tried: list[str] = []
    for module_name, path in candidates:
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A module that exists but misses one of its own imports is the user's to mend, not a reason to look elsewhere.
            if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise UserCodeError(name, f"importing {module_name} failed: no module named {error.name!r}") from error
            tried.append(f"no module {error.name!r}")
            continue
        except Exception as error:
            raise UserCodeError(name, f"importing {module_name} failed: {_describe(error)}") from error
        for attribute in path.split("."):
            if not hasattr(found, attribute):
                near = [entry for entry in dir(found) if not entry.startswith("_")]
                raise UserCodeError(name, f"{module_name} has no {path!r}. It has: {', '.join(near[:20]) or 'nothing public'}")
            found = getattr(found, attribute)
        return found
    raise UserCodeError(
        name,
        f"{'; '.join(dict.fromkeys(tried))}. Looked in the working folder {here} and in the installed packages; write package.module:attribute.",
    )


def digests(options: Mapping[str, Any]) -> dict[str, str]:
    """What the user's own code and weights are right now, for a training's key: the file of each dotted name, and ``pretrained``.

    Raises:
        UserCodeError: a dotted name that does not load.
        SourceNotFoundError: no weights there.
    """
    found: dict[str, str] = {}
    named = [(key, options.get(key)) for key in ("model", "loss", "optimizer", "augment")]
    if isinstance(steps := options.get("augment"), list | tuple):
        named += [(f"augment.{number}", step.get("name")) for number, step in enumerate(steps)]
    for key, name in named:
        if isinstance(name, str) and is_dotted(name):
            module = inspect.getmodule(load_dotted(name))
            file = getattr(module, "__file__", None)
            if file is not None and "site-packages" not in Path(file).parts:
                found[key] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if weights := options.get("pretrained"):
        from infra.datasets.sources import listing  # with all that imports data: every rank pays for it otherwise

        found["pretrained"] = hashlib.sha256(repr(listing(weights)).encode()).hexdigest()
    return found


def call_with_accepted(name: str, function: Callable[..., Any], offered: Mapping[str, Any], *positional: Any) -> Any:
    """Call a user's function with those of the offered keyword arguments that it accepts.

    Raises:
        UserCodeError: it is not callable, wants an argument that is not offered, or raised.
    """
    if not callable(function):
        raise UserCodeError(name, f"it is a {type(function).__name__}, not a function or class")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in callables have no signature
        parameters = []
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][len(positional) :]
    missing = [p.name for p in named if p.default is p.empty and p.name not in offered]
    if missing:
        raise UserCodeError(
            name, f"it wants {', '.join(map(repr, missing))}; on offer by name are {', '.join(map(repr, offered)) or 'none'}"
        )
    accepted = dict(offered) if takes_all else {p.name: offered[p.name] for p in named if p.name in offered}
    return guarded(name, function, *positional, **accepted)


def guarded(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a user's function; whatever it raises becomes a ``UserCodeError`` with the place in their code."""
    try:
        return function(*args, **kwargs)
    except AtelierError:
        raise
    except Exception as error:
        raise UserCodeError(name, _describe(error)) from error


def guarded_with_traceback(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Like ``guarded``, and the error ends with the traceback of the user's own lines: for code that is called deep in a training."""
    try:
        return function(*args)
    except AtelierError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything; it is told whole
        raise UserCodeError(name, _told(error)) from None


def blame_user(error: BaseException) -> UserCodeError | None:
    """An error as one of the user's code, if some of that was running: a network's ``forward``, say, which torch calls; None: none was."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if _is_users(frame.f_code.co_filename)]
    if not frames:
        return None
    return UserCodeError(f"{frames[0].f_globals.get('__name__', '')}:{frames[0].f_code.co_qualname}", _told(error))


def _told(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error)
    if any(_is_users(frame.filename) for frame in shown.stack):
        _keep_users_lines(shown)
    else:  # called by name, and not in a file of theirs: the first frame is ours
        del shown.stack[0]
    return f"it raised an error.\n{''.join(shown.format()).rstrip()}"


def _keep_users_lines(shown: traceback.TracebackException | None) -> None:
    """Take the frames of libraries and ours out, also from the errors that were there before this one."""
    if shown is not None:
        shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if _is_users(frame.filename)])
        for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
            _keep_users_lines(other)


@cache
def _is_users(file: str) -> bool:
    """Whether a file of code is neither Python's, nor an installed library's, nor ours."""
    path = Path(file).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_STANDARD_LIBRARY)
    return path.is_file() and not installed and not any(path.is_relative_to(floor) for floor in _OURS)


def _describe(error: BaseException) -> str:
    every = list(traceback.extract_tb(error.__traceback__))
    frames = [frame for frame in every if _is_users(frame.filename)] or every
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
