"""Questions that ``atelier doctor`` asks in a process of its own, since a broken library may crash or hang: ``python -m deployments._probes NAME``."""

from __future__ import annotations

import json
import sys
from typing import Any


def horovod() -> dict[str, Any]:
    """What Horovod was built with, as ``horovodrun --check-build`` shows it."""
    import horovod.torch as hvd

    controllers = {"mpi": hvd.mpi_built(), "gloo": hvd.gloo_built()}
    operations = {"nccl": hvd.nccl_built(), "mpi": hvd.mpi_built(), "gloo": hvd.gloo_built(), "ccl": hvd.ccl_built()}
    return {
        "frameworks": ["torch"],
        "controllers": [name for name, built in controllers.items() if built],
        "operations": [name for name, built in operations.items() if built],
    }


def torch() -> dict[str, Any]:
    """The version, and what training would use on this machine."""
    import torch as library

    from algorithms.engines.hardware import choose_precision

    device = library.device("cuda" if library.cuda.is_available() else "cpu")
    return {
        "version": str(library.__version__),
        "threads": library.get_num_threads(),
        "device": device.type,
        "precision": choose_precision("auto", device),
    }


def gpu() -> dict[str, Any]:
    """The GPUs that torch can compute on: each adds two numbers."""
    import torch as library

    names = []
    for index in range(library.cuda.device_count()):
        if float(library.ones(2, device=f"cuda:{index}").sum()) == 2.0:
            names.append(library.cuda.get_device_name(index))
    return {"names": names}


def onnxruntime() -> dict[str, Any]:
    """The execution providers that really run a model; being listed only means that onnxruntime was built with them."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    ort.set_default_logger_severity(4)
    working = []
    for provider in ("CUDAExecutionProvider", "CPUExecutionProvider"):
        if provider not in ort.get_available_providers():
            continue
        session = ort.InferenceSession(model, providers=[provider])
        doubled = session.run(None, {"x": np.ones(2, np.float32)})[0]
        if session.get_providers()[0] == provider and doubled.tolist() == [2.0, 2.0]:
            working.append(provider)
    return {"providers": working}


PROBES = {"horovod": horovod, "torch": torch, "gpu": gpu, "onnxruntime": onnxruntime}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))
