"""What ranks print stays with their run: one object a rank in the store, next to what the run wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infra.errors import AtelierError
from infra.store import Store

Event = dict[str, Any]


def log_folder(output: str) -> str:
    """Where the ranks' output lies whose work goes to ``output``: ``runs/KEY/trained`` has ``runs/KEY/logs/trained``."""
    parent, _, name = output.rpartition("/")
    return f"{parent}/logs/{name}".lstrip("/")


def keep_output(store: Store, output: str, on_event: Callable[[Event], None]) -> Callable[[str, str], None]:
    """What a launch calls with the name of a rank and what it printed: that becomes ``log_folder(output)/NAME.log``.

    Without ``output``, where the ranks' work goes, nothing is kept; a rank that printed nothing leaves no object. That a log cannot be kept is told by
    an event, and is no reason to lose what the ranks have learned.
    """

    def keep(name: str, text: str) -> None:
        if not output or not text:
            return
        try:
            store.write_bytes(f"{log_folder(output)}/{name}.log", text.encode())
        except (AtelierError, OSError) as error:
            on_event({"kind": "log", "rank": 0, "message": f"the output of {name} could not be kept: {error}"})

    return keep
