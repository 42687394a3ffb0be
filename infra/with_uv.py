"""Runs uv with the index settings that pip has: ``python -m infra.with_uv pip install ...``.

uv does not read pip's configuration, and a machine whose packages come from a mirror says so there, or in PIP_* variables. uv's own
UV_* variables go first. Only the standard library: this runs before anything is installed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def pip_settings(listing: str) -> dict[str, str]:
    """The output of ``pip config list`` as one value a setting: PIP_* variables before [install] before [global]."""
    order = {"global": 0, "install": 1, ":env:": 2}
    ranked: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        rank = order.get(section)
        if rank is None or not value:
            continue
        if key not in ranked or rank >= ranked[key][0]:
            ranked[key] = (rank, str(ast.literal_eval(value)))
    return {key: value for key, (_, value) in ranked.items()}


def uv_variables(settings: Mapping[str, str], environment: Mapping[str, str], *, locking: bool) -> dict[str, str]:
    """What uv must be told besides its own variables.

    Args:
        settings: pip's.
        environment: the caller's; what it already says to uv is left as it is.
        locking: for ``uv pip compile`` only the main index counts, so that a lock never depends on this machine's extra packages.
    """
    told: dict[str, str] = {}

    def tell(variable: str, value: str | None, *synonyms: str) -> None:
        if value and not any(environment.get(name) for name in (variable, *synonyms)):
            told[variable] = value

    tell("UV_DEFAULT_INDEX", settings.get("index-url"), "UV_INDEX_URL")
    tell("UV_INSECURE_HOST", " ".join(settings.get("trusted-host", "").split()))
    tell("SSL_CERT_FILE", settings.get("cert"))
    tell("UV_HTTP_TIMEOUT", str(max(300, int(float(settings.get("timeout") or settings.get("default-timeout") or 0)))))
    if not locking:
        tell("UV_INDEX", " ".join(settings.get("extra-index-url", "").split()), "UV_EXTRA_INDEX_URL")
        tell("UV_FIND_LINKS", ",".join(settings.get("find-links", "").split()))
        # As pip does: a file may come from any of the indexes. Every one is checked against the lock's hash, so none can slip in another.
        tell("UV_INDEX_STRATEGY", "unsafe-best-match")
    return told


def no_index(settings: Mapping[str, str]) -> bool:
    """Whether pip is told to ask no index at all: a machine without network, with a folder of wheels."""
    return settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}


def main(arguments: list[str]) -> None:
    """Become uv; never returns."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    settings = pip_settings(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    told = uv_variables(settings, os.environ, locking=arguments[:2] == ["pip", "compile"])
    if no_index(settings):
        arguments = [*arguments, "--no-index"]
    uv = str(Path(sys.executable).with_name("uv"))
    os.execve(uv, [uv, *arguments], {**os.environ, **told, "UV_PYTHON_DOWNLOADS": "never"})


if __name__ == "__main__":
    main(sys.argv[1:])
