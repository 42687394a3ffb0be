"""The server as one ASGI application: predictions straight to ``Predictor``, everything else through FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from deployments.serving.access import CHALLENGE, allow
from deployments.serving.admin import admin_routes
from deployments.serving.counted import CountedOnce
from deployments.serving.feedback import Signer
from deployments.serving.fleet import Fleet, Served
from deployments.serving.judging import Feedback, judge
from deployments.serving.keys import KeyRing
from deployments.serving.metrics import CONTENT_TYPE, Metrics
from deployments.serving.model import ServedModel
from deployments.serving.openapi import PAGE, complete, error_responses, page_files
from deployments.serving.predicting import Predictor, target_of
from deployments.serving.truths import TruthWriter
from deployments.serving.wire import Headers, Receive, Scope, Send
from infra.errors import AtelierError, RequestRefusedError

EXTENSIONS = ["binary_tensor_data"]
_CLOSE: Headers = [(b"connection", b"close")]
Name = Annotated[str, Path(description="Name of a model.", max_length=100)]
Number = Annotated[str, Path(description="Number of a version.", max_length=20)]


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


def build_app(server: Server, lifespan: Any, version: str) -> FastAPI:
    """Health, metadata, metrics, feedback, administration and the page."""
    fleet, ring = server.fleet, server.ring

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        async with lifespan():
            yield

    app = FastAPI(title="Atelier inference server", version=version, docs_url=None, redoc_url=None, lifespan=living)
    app.openapi_version = "3.0.3"  # the newest that the page's Swagger UI shows

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

    def may(request: Request, role: Any = "predict") -> str:
        return allow(ring, dict(request.scope["headers"]), role)

    @app.get("/v2/health/live", tags=["health"], summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=["health"], summary="Whether requests should be sent here", responses=error_responses(503))
    async def ready() -> dict[str, bool]:
        if server.draining:
            raise HTTPException(503, "the server is stopping")
        return {"ready": True}

    @app.get("/v2", tags=["metadata"], summary="The server")
    async def about() -> dict[str, Any]:
        return {"name": "atelier", "version": version, "extensions": EXTENSIONS}

    @app.get("/v2/models", tags=["metadata"], summary="What is loaded", responses=error_responses(401))
    async def models(request: Request) -> dict[str, Any]:
        may(request)
        listed = [
            {"name": name, "live": str(one.live.number), "versions": [str(number) for number in sorted(one.versions)]}
            for name, one in fleet.served.items()
        ]
        return {"models": listed}

    known = error_responses(401, 404)

    @app.get("/v2/models/{name}", tags=["metadata"], summary="A model: its live version", responses=known)
    async def metadata(request: Request, name: Name) -> dict[str, Any]:
        may(request)
        served = server.served(name)
        return describe(served.live, served)

    @app.get("/v2/models/{name}/versions/{version}", tags=["metadata"], summary="A version", responses=known)
    async def version_metadata(request: Request, name: Name, version: Number) -> dict[str, Any]:
        may(request)
        return describe(fleet.pick(name, version, None), server.served(name))

    @app.get("/v2/models/{name}/ready", tags=["health"], summary="Whether a model is loaded", responses=known)
    async def model_ready(request: Request, name: Name) -> dict[str, Any]:
        may(request)
        return {"name": name, "version": str(server.served(name).live.number), "ready": not server.draining}

    @app.get("/v2/models/{name}/versions/{version}/ready", tags=["health"], summary="Whether a version is loaded", responses=known)
    async def version_ready(request: Request, name: Name, version: Number) -> dict[str, Any]:
        may(request)
        return {"name": name, "version": str(fleet.pick(name, version, None).number), "ready": not server.draining}

    @app.post(
        "/v2/models/{name}/feedback",
        tags=["predictions"],
        summary="A true answer that came later",
        responses=error_responses(400, 401, 404),
    )
    async def feedback(request: Request, name: Name, body: Feedback) -> dict[str, Any]:
        may(request)
        return judge(server.signer, server.served(name), server.metrics, server.truths, server.counted, name, body)

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response, responses=error_responses(401))
    async def exposition(request: Request) -> Response:
        may(request)
        server.metrics.flush()
        return Response(await asyncio.to_thread(server.metrics.exposition), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    app.mount("/docs", StaticFiles(directory=page_files()), name="page")
    app.include_router(admin_routes(server, may))
    plain_schema = app.openapi

    def schema() -> dict[str, Any]:
        app.openapi_schema = None  # FastAPI keeps it, but the models in it come and go
        examples = [(name, one.live.is_image, example_row(one.live)) for name, one in fleet.served.items()]
        return complete(plain_schema(), examples)

    app.openapi = schema  # type: ignore[method-assign]
    return app


def describe(model: ServedModel, served: Served) -> dict[str, Any]:
    """A version's metadata as the protocol wants it, and what else a client needs to know."""
    if model.is_image:
        inputs = [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    else:
        inputs = [{"name": column.name, "datatype": column.datatype, "shape": [-1, 1]} for column in model.columns]
    shape = [-1, len(model.labels)] if model.output == "scores" else [-1]
    return {
        "name": model.name,
        "versions": [str(number) for number in sorted(served.versions)],
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": [{"name": model.output, "datatype": "FP32", "shape": shape}],
        "parameters": {
            "version": str(model.number),
            "aliases": model.version.aliases,
            "task": model.package.task,
            "labels": model.labels,
            "digest": model.version.package.digest,
            "optional_inputs": [column.name for column in model.columns if not column.required],
        },
    }


def example_row(model: ServedModel) -> dict[str, Any]:
    """A row of a table model that it takes, for the page; empty for pictures."""
    examples: dict[str, Any] = {"float": 0.5, "int": 1, "string": "a"}
    return {column.name: examples[column.kind] for column in model.columns}
