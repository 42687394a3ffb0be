"""The server as one ASGI application: predictions straight to ``Predictor``, everything else through FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from deployments.serving.access import CHALLENGE, allow
from deployments.serving.admin import admin_routes
from deployments.serving.counted import CountedOnce
from deployments.serving.feedback import Signer
from deployments.serving.fleet import Fleet, Served
from deployments.serving.keys import KeyRing
from deployments.serving.metrics import Metrics
from deployments.serving.model import ServedModel
from deployments.serving.openapi import PAGE, complete, page_files
from deployments.serving.predicting import Predictor, target_of
from deployments.serving.protocol import protocol_routes
from deployments.serving.truths import TruthWriter
from deployments.serving.wire import Headers, Receive, Scope, Send
from infra.errors import AtelierError, RequestRefusedError

_CLOSE: Headers = [(b"connection", b"close")]


class Server:
    """The ASGI application of one worker.

    Args:
        lifespan: what runs beside it, from start to stop.
    """

    def __init__(
        self,
        fleet: Fleet,
        ring: KeyRing,
        metrics: Metrics,
        predictor: Predictor,
        signer: Signer,
        truths: TruthWriter,
        counted: CountedOnce,
        lifespan: Any,
        version: str,
    ) -> None:
        self.fleet, self.ring, self.metrics, self.signer, self.truths, self.counted = fleet, ring, metrics, signer, truths, counted
        self.draining = False
        self._predictor = predictor
        self._app = build_app(self, lifespan, version)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # A stopping server asks its clients to connect anew, which leads them to one that stays.
            if (target := target_of(scope["path"])) is not None:
                await self._predictor(target, scope, receive, send, _CLOSE if self.draining else [])
                return
            if self.draining:
                send = _closing(send)
        await self._app(scope, receive, send)

    def served(self, name: str) -> Served:
        """The present state of a model.

        Raises:
            RequestRefusedError: 404.
        """
        self.fleet.pick(name, None, None)
        return self.fleet.served[name]


def _closing(send: Send) -> Send:
    async def closing(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *_CLOSE]}
        await send(message)

    return closing


def _said(status: int, reason: str) -> JSONResponse:
    headers = {name.decode(): value.decode() for name, value in CHALLENGE} if status == 401 else None
    return JSONResponse({"error": reason}, status, headers)


def _tell_errors(app: FastAPI) -> None:
    """Every refusal as ``{"error": reason}``."""

    @app.exception_handler(RequestRefusedError)
    async def refused(_: Request, error: RequestRefusedError) -> JSONResponse:
        return _said(error.status, error.reason)

    @app.exception_handler(AtelierError)
    async def wrong(_: Request, error: AtelierError) -> JSONResponse:
        return _said(400 if error.exit_status == 2 else 503, str(error))

    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
        answer = _said(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _said(400, "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()))


def build_app(server: Server, lifespan: Any, version: str) -> FastAPI:
    """Everything but predictions: the protocol's other routes, administration and the page."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        async with lifespan():
            yield

    app = FastAPI(title="Atelier inference server", version=version, docs_url=None, redoc_url=None, lifespan=living)
    app.openapi_version = "3.0.3"  # the newest that the page's Swagger UI shows

    _tell_errors(app)

    def may(request: Request, role: Any = "predict") -> str:
        return allow(server.ring, dict(request.scope["headers"]), role)

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    app.mount("/docs", StaticFiles(directory=page_files()), name="page")
    app.include_router(protocol_routes(server, may, version))
    app.include_router(admin_routes(server, may))
    plain_schema = app.openapi

    def schema() -> dict[str, Any]:
        app.openapi_schema = None  # FastAPI keeps it, but the models in it come and go
        examples = [(name, one.live.is_image, example_row(one.live)) for name, one in server.fleet.served.items()]
        return complete(plain_schema(), examples)

    app.openapi = schema  # type: ignore[method-assign]
    return app


def example_row(model: ServedModel) -> dict[str, Any]:
    """A row of a table model that it takes, for the page; empty for pictures."""
    examples: dict[str, Any] = {"float": 0.5, "int": 1, "string": "a"}
    return {column.name: examples[column.kind] for column in model.columns}
