"""Flows that can be called without a server: the call starts an embedded Prefect API, where none is configured, and ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.progress import make_progress
from infra.access import prefect_client_variables
from infra.context import Backend, StageContext
from infra.prefect_server import EmbeddedServer, configured_url, prefect_server
from infra.settings import load_settings

P = ParamSpec("P")
R = TypeVar("R")
Listener = Callable[[dict[str, Any]], None]

_listener: ContextVar[Listener | None] = ContextVar("atelier_listener", default=None)
_server: ContextVar[EmbeddedServer | None] = ContextVar("atelier_prefect_server", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every event of the flows called inside to ``listener`` (see ``algorithms.run.Run`` for what events are)."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def starting_server(server: EmbeddedServer | None) -> Iterator[None]:
    """Use a server that was begun earlier (so that it comes up while Prefect is imported)."""
    token = _server.set(server)
    try:
        yield
    finally:
        _server.reset(token)


def open_context(*, workers: int | str = 1, backend: Backend | None = None, fresh: bool = False, timeline: str = "") -> StageContext:
    """A stage context whose events go to the listener, if somebody listens; a run that a worker started tells its log in Prefect's pages."""
    context = StageContext.open(workers=workers, backend=backend, fresh=fresh, timeline=timeline)
    if (listener := _listener.get()) is not None:
        context.also_report(listener)
    elif FlowRunContext.get() is not None:
        context.also_report(_log_of_run())
    return context


def _log_of_run() -> Listener:
    logger = get_run_logger()

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "stage" and event["state"] != "running":
            logger.info("%s %s in %.1f s", event["name"], event["state"], event["seconds"])
        elif event["kind"] == "log":
            logger.info("%s", event["message"])

    return listen


class EmbeddedFlow(Flow[P, R]):
    """A Prefect flow in every respect; called as a function outside of a flow run, it brings its own API if there is none."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        try:
            if _listener.get() is not None or FlowRunContext.get() is not None:
                return self._call(*args, **kwargs)
            with make_progress() as progress, listening(progress.on_event):
                return self._call(*args, **kwargs)
        except TerminationSignal:  # what Prefect makes of SIGTERM; to whoever called, it is as Ctrl-C
            raise KeyboardInterrupt from None

    def _call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if (early := _server.get()) is not None:
            return self._call_with(early, *args, **kwargs)
        if FlowRunContext.get() is not None:
            return super().__call__(*args, **kwargs)
        if url := PREFECT_API_URL.value() or configured_url():
            known = prefect_client_variables(load_settings()).get("PREFECT_API_AUTH_STRING")
            with temporary_settings({PREFECT_API_URL: url} | ({PREFECT_API_AUTH_STRING: known} if known else {})):
                return super().__call__(*args, **kwargs)
        with prefect_server(load_settings()) as server:
            assert server is not None, "an API was configured in the meantime"
            return self._call_with(server, *args, **kwargs)

    def _call_with(self, server: EmbeddedServer, *args: P.args, **kwargs: P.kwargs) -> R:
        with temporary_settings({PREFECT_API_URL: server.wait()}):
            try:
                return super().__call__(*args, **kwargs)
            finally:
                APILogWorker.drain_all(timeout=5)  # what is not sent now would find no server


def embedded_flow(name: str) -> Callable[[Callable[P, R]], EmbeddedFlow[P, R]]:
    """Make a function an ``EmbeddedFlow``; its parameters are checked by its own code, which answers with our errors."""

    def decorate(function: Callable[P, R]) -> EmbeddedFlow[P, R]:
        return EmbeddedFlow(function, name=name, validate_parameters=False, persist_result=False)

    return decorate
