"""``from flows import pipeline``: run the whole thing from Python; the names are loaded when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.prefect_server import quieten

if TYPE_CHECKING:
    from flows.compressing import compress
    from flows.presets import preset
    from flows.training import RunResult, pipeline
    from flows.tuning import tune

# Prefect sets up its logging when it is imported, so what keeps it off the terminal has to be said before: here, where every flow begins.
quieten()

__all__ = ["RunResult", "compress", "pipeline", "preset", "tune"]

_HOMES = {
    "RunResult": "flows.training",
    "compress": "flows.compressing",
    "pipeline": "flows.training",
    "preset": "flows.presets",
    "tune": "flows.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flows' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
