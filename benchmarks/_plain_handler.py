"""What one would write without Atelier: FastAPI, orjson and onnxruntime, one run of the model a request. ``PLAIN_MODEL``, ``PLAIN_THREADS``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import orjson
from fastapi import FastAPI, Request, Response

options = ort.SessionOptions()
options.intra_op_num_threads = int(os.environ["PLAIN_THREADS"])
options.log_severity_level = 3
session = ort.InferenceSession(Path(os.environ["PLAIN_MODEL"]).read_bytes(), options, providers=["CPUExecutionProvider"])
app = FastAPI()


def answer(scores: np.ndarray) -> Response:
    output = {"name": "scores", "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel()}
    return Response(orjson.dumps({"outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.post("/json")
async def infer_json(request: Request) -> Response:
    tensor = orjson.loads(await request.body())["inputs"][0]
    image = np.array(tensor["data"], dtype=np.uint8).reshape(tensor["shape"])
    return answer(session.run(None, {"image": image})[0])


@app.post("/bytes")
async def infer_bytes(request: Request) -> Response:
    side = int(request.headers["side"])
    image = np.frombuffer(await request.body(), dtype=np.uint8).reshape(-1, side, side, 3)
    return answer(session.run(None, {"image": image})[0])
