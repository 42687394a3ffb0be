"""The part of the OpenAPI page that FastAPI does not see, because predictions do not go through its routing; and the page itself, which
needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 8},
        "datatype": {"type": "string", "enum": ["UINT8", "INT64", "FP32", "FP64", "BYTES"]},
        "data": {"type": "array", "items": {}, "description": "Flat or nested, row-major; or binary_data_size in parameters."},
        "parameters": {"type": "object"},
    },
}
_SCHEMAS: dict[str, Any] = {
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                },
            },
            "parameters": {"type": "object"},
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Predictions": {
        "type": "object",
        "required": ["model", "version", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string"},
                        "scores": {"type": "object", "additionalProperties": {"type": "number"}},
                        "value": {"type": "number"},
                    },
                },
            },
        },
    },
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string", "description": "Why, in words."}}},
}
ERRORS = {
    400: "The input is wrong; the reason says how.",
    401: "An API key is needed.",
    403: "The API key's role does not allow this.",
    404: "No such model or version is loaded.",
    413: "Too large.",
    415: "The model takes another content type.",
    422: "The model has no finite answer to this input.",
    503: "Overloaded or stopping; try again.",
}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI shall say about errors of a path."""
    return {status: _error(ERRORS[status]) for status in statuses}


def _operation(summary: str, identifier: str, version: bool, names: Sequence[str], content: dict[str, Any], schema: str) -> dict[str, Any]:
    name = {"type": "string", **({"example": names[0]} if names else {})}
    parameters = [{"name": "name", "in": "path", "required": True, "schema": name}]
    if version:
        parameters.append({"name": "version", "in": "path", "required": True, "schema": {"type": "string"}})
    key = {"type": "string", "maxLength": 200}
    parameters.append({"name": "Atelier-Key", "in": "header", "required": False, "description": "Same key, same version.", "schema": key})
    ok = {"description": "Predictions.", "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    return {
        "tags": ["predictions"],
        "summary": summary,
        "operationId": identifier,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": ok, **{str(status): _error(text) for status, text in ERRORS.items()}},
        "security": [{}, {"bearer": []}, {"apiKey": []}],
    }


def prediction_paths(models: Sequence[tuple[str, bool, dict[str, Any]]]) -> dict[str, Any]:
    """Paths of ``infer`` and ``predict``, with the models that are loaded as examples.

    Args:
        models: name, whether it takes pictures, an example of a row.
    """
    names = [name for name, _, _ in models]
    tensors = {name: {"summary": name, "value": _tensors(is_image, row)} for name, is_image, row in models}
    rows = {name: {"summary": name, "value": [row]} for name, is_image, row in models if not is_image}
    infer = {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}, "examples": tensors}}
    file = {"type": "string", "format": "binary"}
    predict = {
        "application/json": {"schema": {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}, "examples": rows},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": file}}},
        "application/octet-stream": {"schema": file},
    }
    paths: dict[str, Any] = {}
    for version in (False, True):
        base = "/v2/models/{name}" + ("/versions/{version}" if version else "")
        tail = "_version" if version else ""
        paths[f"{base}/infer"] = {
            "post": _operation("Predict by tensors (Open Inference Protocol v2)", f"infer{tail}", version, names, infer, "InferResponse")
        }
        paths[f"{base}/predict"] = {
            "post": _operation("Predict rows or pictures (plain)", f"predict{tail}", version, names, predict, "Predictions")
        }
    return paths


def _tensors(is_image: bool, row: dict[str, Any]) -> dict[str, Any]:
    if is_image:
        return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [0, 0, 0, 255, 255, 255]}]}
    types = {str: "BYTES", int: "INT64", float: "FP32"}
    return {"inputs": [{"name": name, "datatype": types[type(value)], "shape": [1, 1], "data": [value]} for name, value in row.items()]}


def complete(schema: dict[str, Any], models: Sequence[tuple[str, bool, dict[str, Any]]]) -> dict[str, Any]:
    """FastAPI's schema with the predictions in it."""
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(_SCHEMAS)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    schema["paths"] = {**prediction_paths(models), **schema["paths"]}
    return schema


def page_files() -> Path:
    """The folder of Swagger UI (Apache-2.0) that its package ships."""
    from swagger_ui_bundle import swagger_ui_path

    return Path(swagger_ui_path)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Atelier inference server</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, tryItOutEnabled: true, validatorUrl: null})</script>
</body>
</html>
"""
