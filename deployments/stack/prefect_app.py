"""Prefect's server as ``atelier up`` starts it: ``uvicorn --factory deployments.stack.prefect_app:create_app``.

Prefect 3.8 inserts the runs of schedules with a key that is no column (``state``, a hybrid property of its own). SQLAlchemy 2.0 passed over
that; 2.1 refuses it unless the property says what to do, and no schedule would ever make a run. So it says: nothing.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI


def create_app() -> FastAPI:
    """Prefect's application, whose schedules work."""
    from prefect.server.api.server import create_app as create_prefect_app
    from prefect.server.database.orm_models import FlowRun
    from sqlalchemy import inspect

    state: Any = inspect(FlowRun).all_orm_descriptors["state"]
    if getattr(state, "bulk_dml_setter", None) is None:
        state.bulk_dml_setter = _pass_over
    return create_prefect_app()


def _pass_over(cls: type[Any], mapping: MutableMapping[str, Any], value: Any) -> None:
    """The states are inserted after the runs, from the same mappings, which must stay as they are."""
