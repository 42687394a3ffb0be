"""Health, metadata, metrics and feedback by the Open Inference Protocol, version 2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import Response

from deployments.serving.fleet import Served
from deployments.serving.judging import Feedback, judge
from deployments.serving.metrics import CONTENT_TYPE
from deployments.serving.model import ServedModel
from deployments.serving.openapi import error_responses

if TYPE_CHECKING:
    from deployments.serving.app import Server

EXTENSIONS = ["binary_tensor_data"]
Name = Annotated[str, Path(description="Name of a model.", max_length=100)]
Number = Annotated[str, Path(description="Number of a version.", max_length=20)]


def protocol_routes(server: Server, may: Callable[[Request], str], version: str) -> APIRouter:
    """What there is besides predictions and administration.

    Args:
        may: as ``may(request)``: raises where the caller may not.
        version: of the server.
    """
    router = APIRouter()
    fleet = server.fleet

    @router.get("/v2/health/live", tags=["health"], summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/v2/health/ready", tags=["health"], summary="Whether requests should be sent here", responses=error_responses(503))
    async def ready() -> dict[str, bool]:
        if server.draining:
            raise HTTPException(503, "the server is stopping")
        return {"ready": True}

    @router.get("/v2", tags=["metadata"], summary="The server")
    async def about() -> dict[str, Any]:
        return {"name": "atelier", "version": version, "extensions": EXTENSIONS}

    @router.get("/v2/models", tags=["metadata"], summary="What is loaded", responses=error_responses(401))
    async def models(request: Request) -> dict[str, Any]:
        may(request)
        listed = [
            {"name": name, "live": str(one.live.number), "versions": [str(number) for number in sorted(one.versions)]}
            for name, one in fleet.served.items()
        ]
        return {"models": listed}

    _model_routes(router, server, may)

    @router.post(
        "/v2/models/{name}/feedback",
        tags=["predictions"],
        summary="A true answer that came later",
        responses=error_responses(400, 401, 404),
    )
    async def feedback(request: Request, name: Name, body: Feedback) -> dict[str, Any]:
        may(request)
        return judge(server.signer, server.served(name), server.metrics, server.truths, server.counted, name, body)

    @router.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response, responses=error_responses(401))
    async def exposition(request: Request) -> Response:
        may(request)
        server.metrics.flush()
        return Response(await asyncio.to_thread(server.metrics.exposition), media_type=CONTENT_TYPE)

    return router


def _model_routes(router: APIRouter, server: Server, may: Callable[[Request], str]) -> None:
    """Metadata and readiness of a model and of one of its versions."""
    fleet = server.fleet
    known = error_responses(401, 404)

    @router.get("/v2/models/{name}", tags=["metadata"], summary="A model: its live version", responses=known)
    async def metadata(request: Request, name: Name) -> dict[str, Any]:
        may(request)
        served = server.served(name)
        return describe(served.live, served)

    @router.get("/v2/models/{name}/versions/{version}", tags=["metadata"], summary="A version", responses=known)
    async def version_metadata(request: Request, name: Name, version: Number) -> dict[str, Any]:
        may(request)
        return describe(fleet.pick(name, version, None), server.served(name))

    @router.get("/v2/models/{name}/ready", tags=["health"], summary="Whether a model is loaded", responses=known)
    async def model_ready(request: Request, name: Name) -> dict[str, Any]:
        may(request)
        return {"name": name, "version": str(server.served(name).live.number), "ready": not server.draining}

    @router.get("/v2/models/{name}/versions/{version}/ready", tags=["health"], summary="Whether a version is loaded", responses=known)
    async def version_ready(request: Request, name: Name, version: Number) -> dict[str, Any]:
        may(request)
        return {"name": name, "version": str(fleet.pick(name, version, None).number), "ready": not server.draining}


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
