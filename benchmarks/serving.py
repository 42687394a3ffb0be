"""The inference server against MLflow's scoring server, a plain FastAPI handler and a bare onnxruntime loop; both sides in one run.

    python benchmarks/serving.py [--rounds 3] [--seconds 4] [--clients 16] [--parts small,resnet,latency,start]

All servers of a part run at once and are asked in turns, one round after the other; medians over the rounds. Client and server share the
machine's cores. Claims: small CNN (28x28): at least 3.0 x MLflow and 1.0 x the plain handler by JSON, 2.0 x that handler by binary tensors.
ResNet-18 (224x224): at least 0.8 x a bare onnxruntime loop at the server's batch size, 1.2 x the plain handler, asked
in the same way. p50 at one client at most
2 ms above the bare session. Cold start at most 3 s.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # where it is run as a script

from benchmarks._load import Load, post, run_load  # noqa: E402

CLASSES = [str(number) for number in range(10)]


def make_package(folder: Path, network: str, size: int, channels: int) -> Path:
    """A package with random weights: what it answers does not matter here, what it costs does."""
    from algorithms.images.config import ImageClassificationConfig
    from algorithms.images.export import export_graph
    from algorithms.images.models import build_small_cnn, timm_builder
    from algorithms.package import write_package

    # A quarter as wide as the preset: 2 M MACs, as much as what --compress auto ships, so that HTTP and JSON are the cost, not the model.
    config = ImageClassificationConfig.model_validate({"image_size": size, "channels": channels, "channels_last": False, "width": 0.25})
    data: Any = SimpleNamespace(classes=CLASSES, num_classes=len(CLASSES), num_outputs=len(CLASSES))
    build = build_small_cnn if network == "small-cnn" else timm_builder(network)
    write_package(
        folder,
        onnx_model_bytes=export_graph(build(config, data), config, data).SerializeToString(),
        task="image-classification",
        algorithm=f"image-classification/{network}",
        inputs_schema={"type": "object", "properties": {"image": {"type": "string"}}, "required": ["image"]},
        output_schema={"type": "object"},
        labels=CLASSES,
        preprocessing={"summary": "inside", "image_size": size},
        lineage={},
        config={},
        metrics={"accuracy": 0.1},
    )
    return folder


def register(name: str, folder: Path) -> None:
    from infra.artifacts import publish
    from infra.registry import Registry
    from infra.settings import load_settings
    from infra.store import open_store

    settings = load_settings()
    store = open_store(settings.workspace_uri)
    artifact = publish(store, folder, f"runs/{name}/package", "export")
    made = Registry(settings, store).register(
        name, artifact, algorithm="image-classification/x", dataset="d" * 64, metrics={"accuracy": 0.1}
    )
    Registry(settings, store).promote(name, made.version)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], url: str, environment: dict[str, str] | None = None) -> Iterator[float]:
    """A server process for as long as the block runs; seconds from its start to its first good answer."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}, cwd=ROOT)
        try:
            while True:
                if process.poll() is not None or time.perf_counter() - begun > 120:
                    log.seek(0)
                    raise SystemExit(f"{command[:4]} did not come up:\n{log.read()[-3000:].decode(errors='replace')}")
                try:
                    with urllib.request.urlopen(url, timeout=5):
                        break
                except OSError:
                    time.sleep(0.01)
            yield time.perf_counter() - begun
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def atelier(port: int, model: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "deployments.cli", "serve", model, "--port", str(port), "--drain-s", "0", *more]


def plain(port: int) -> list[str]:
    app = "benchmarks._plain_handler:app"
    return [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        "--port",
        str(port),
        "--no-access-log",
        "--log-level",
        "warning",
        "--loop",
        "uvloop",
        "--http",
        "httptools",
    ]


def infer_json(images: np.ndarray) -> bytes:
    return orjson.dumps({"inputs": [{"name": "image", "datatype": "UINT8", "shape": images.shape, "data": images.ravel().tolist()}]})


def infer_binary(images: np.ndarray) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "image", "datatype": "UINT8", "shape": images.shape, "parameters": {"binary_data_size": images.nbytes}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + images.tobytes(), {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


def pictures(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8) for _ in range(count)]


def in_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median figure of each side; each is asked once in each round, in another order every time."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            seen[name].append(sides[name]())
    for name, values in seen.items():
        print(f"  {name:36s} {statistics.median(values):10.1f}   ({', '.join(f'{value:.1f}' for value in values)})", flush=True)
    return {name: statistics.median(values) for name, values in seen.items()}


def checked(load: Load) -> float:
    if load.failed:
        raise SystemExit(f"requests failed: {load.statuses}")
    return load.per_second


def claim(what: str, seen: float, least: float | None = None, most: float | None = None) -> None:
    holds = (least is None or seen >= least) and (most is None or seen <= most)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    print(f"  {what}: {seen:.2f} ({wanted}): {'holds' if holds else 'DOES NOT HOLD'}", flush=True)


def small(folder: Path, rounds: int, seconds: float, clients: int) -> None:
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    package = make_package(folder / "small", "small-cnn", 28, 1)
    register("small", package)
    spec = TensorSpec(np.dtype(np.uint8), (-1, 28, 28, 3), name="image")
    signature = ModelSignature(Schema([spec]), Schema([TensorSpec(np.dtype(np.float32), (-1, 10), name="scores")]))
    mlflow.onnx.save_model(onnx.load(package / "model.onnx"), str(folder / "mlflow"), signature=signature)
    images = pictures(clients, 28)
    ports = {name: free_port() for name in ("atelier", "plain", "mlflow")}
    scoring = [
        sys.executable,
        "-m",
        "uvicorn",
        "mlflow.pyfunc.scoring_server.app:app",
        "--port",
        str(ports["mlflow"]),
        "--log-level",
        "warning",
    ]
    scoring += ["--no-access-log", "--workers", "1"]
    with ExitStack() as stack:
        stack.enter_context(server(atelier(ports["atelier"], "small"), f"http://127.0.0.1:{ports['atelier']}/v2/health/ready"))
        model = {"PLAIN_MODEL": str(package / "model.onnx"), "PLAIN_THREADS": "1"}
        stack.enter_context(server(plain(ports["plain"]), f"http://127.0.0.1:{ports['plain']}/openapi.json", model))
        environment = {"__pyfunc_model_path__": str(folder / "mlflow"), "MLFLOW_DISABLE_TELEMETRY": "true"}
        stack.enter_context(server(scoring, f"http://127.0.0.1:{ports['mlflow']}/ping", environment))
        json_type = {"Content-Type": "application/json"}
        nested = [orjson.dumps({"inputs": {"image": image.tolist()}}) for image in images]

        def load(port: str, requests: list[bytes]) -> float:
            return checked(run_load(ports[port], requests, seconds))

        path = "/v2/models/small/infer"
        print(f"small CNN, 28x28, {clients} clients, requests/s")
        seen = in_turns(
            {
                "atelier, JSON": lambda: load("atelier", [post(path, infer_json(one), json_type) for one in images]),
                "atelier, binary": lambda: load("atelier", [post(path, *infer_binary(one)) for one in images]),
                "plain handler, JSON": lambda: load("plain", [post("/json", infer_json(one), json_type) for one in images]),
                "plain handler, bytes": lambda: load("plain", [post("/bytes", one.tobytes(), {"Side": "28"}) for one in images]),
                "MLflow scoring server": lambda: load("mlflow", [post("/invocations", body, json_type) for body in nested]),
            },
            rounds,
        )
    claim("JSON against MLflow", seen["atelier, JSON"] / seen["MLflow scoring server"], least=3.0)
    claim("JSON against the plain handler", seen["atelier, JSON"] / seen["plain handler, JSON"], least=1.0)
    claim("binary against the plain handler by JSON", seen["atelier, binary"] / seen["plain handler, JSON"], least=2.0)


def bare_loop(package: Path, size: int, batch: int, seconds: float) -> float:
    """Pictures/s of onnxruntime alone, with all cores."""
    from algorithms._package_runtime import open_session

    session = open_session(package / "model.onnx")
    image = np.concatenate(pictures(batch, size))
    session.run(None, {"image": image})
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        session.run(None, {"image": image})
        count += batch
    return count / (time.perf_counter() - begun)


def mean_batch(port: int) -> float:
    """Rows of the runs that requests shared, on average over requests."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    total, count = (
        next(float(line.split()[-1]) for line in lines if line.startswith(f"atelier_batch_rows_{what}")) for what in ("sum", "count")
    )
    return total / count


def resnet(folder: Path, rounds: int, seconds: float, clients: int) -> None:
    package = make_package(folder / "resnet", "resnet18", 224, 3)
    register("resnet", package)
    images = pictures(clients, 224)
    port, plain_port = free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(server(atelier(port, "resnet"), f"http://127.0.0.1:{port}/v2/health/ready"))
        model = {"PLAIN_MODEL": str(package / "model.onnx"), "PLAIN_THREADS": str(len(os.sched_getaffinity(0)))}
        stack.enter_context(server(plain(plain_port), f"http://127.0.0.1:{plain_port}/openapi.json", model))
        path, json_type = "/v2/models/resnet/infer", {"Content-Type": "application/json"}
        as_json = [infer_json(one) for one in images]
        requests = [post(path, *infer_binary(one)) for one in images]
        requests_json = [post(path, one, json_type) for one in as_json]
        plain_requests = [post("/bytes", one.tobytes(), {"Side": "224"}) for one in images]
        plain_requests_json = [post("/json", one, json_type) for one in as_json]
        checked(run_load(port, requests, seconds))
        batch = round(mean_batch(port))
        print(f"ResNet-18, 224x224, {clients} clients, pictures/s; the server's mean batch is {batch}")
        seen = in_turns(
            {
                "atelier, binary": lambda: checked(run_load(port, requests, seconds)),
                "plain handler, bytes, unbatched": lambda: checked(run_load(plain_port, plain_requests, seconds)),
                "atelier, JSON": lambda: checked(run_load(port, requests_json, seconds)),
                "plain handler, JSON, unbatched": lambda: checked(run_load(plain_port, plain_requests_json, seconds)),
                f"bare onnxruntime, batch {batch}": lambda: bare_loop(package, 224, batch, seconds),
            },
            rounds,
        )
    claim("against bare onnxruntime at the same batch", seen["atelier, binary"] / seen[f"bare onnxruntime, batch {batch}"], least=0.8)
    ceiling = seen[f"bare onnxruntime, batch {batch}"] / seen["plain handler, bytes, unbatched"]
    claim("against the unbatched handler, both by JSON", seen["atelier, JSON"] / seen["plain handler, JSON, unbatched"], least=1.2)
    claim("against the unbatched handler, both by raw bytes", seen["atelier, binary"] / seen["plain handler, bytes, unbatched"], least=1.2)
    print(f"  (bare onnxruntime at that batch, with nothing around it: {ceiling:.2f} of the handler by raw bytes)")


def latency(folder: Path, rounds: int, seconds: float) -> None:
    from algorithms._package_runtime import open_session

    for name, network, size, channels in (("small", "small-cnn", 28, 1), ("resnet", "resnet18", 224, 3)):
        package = folder / name
        if not package.exists():
            register(name, make_package(package, network, size, channels))
        image = pictures(1, size)[0]
        port = free_port()
        session = open_session(package / "model.onnx", threads=1 if name == "small" else None)

        def bare(session: Any = session, image: np.ndarray = image) -> float:
            took, end = [], time.perf_counter() + seconds
            while (begun := time.perf_counter()) < end:
                session.run(None, {"image": image})
                took.append(time.perf_counter() - begun)
            return statistics.median(took) * 1e3

        with server(atelier(port, name), f"http://127.0.0.1:{port}/v2/health/ready"):
            request = post(f"/v2/models/{name}/infer", *infer_binary(image))

            def asked(port: int = port, request: bytes = request) -> float:
                return statistics.median(run_load(port, [request], seconds).latencies_s) * 1e3

            print(f"{name}, {size}x{size}, 1 client, p50 in ms")
            seen = in_turns(
                {
                    "atelier, binary": asked,
                    "bare session": bare,
                },
                rounds,
            )
        claim("p50 above the bare session, ms", seen["atelier, binary"] - seen["bare session"], most=2.0)


def start(folder: Path, rounds: int) -> None:
    if not (folder / "small").exists():
        register("small", make_package(folder / "small", "small-cnn", 28, 1))
    took = []
    for _ in range(max(3, rounds)):
        port = free_port()
        with server(atelier(port, "small"), f"http://127.0.0.1:{port}/v2/models/small/ready") as seconds:
            took.append(seconds)
    print(f"cold start, from the command to the first answer, s: {', '.join(f'{one:.2f}' for one in took)}")
    claim("cold start, s, the median", statistics.median(took), most=3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement; at most 30")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--parts", default="small,resnet,latency,start")
    arguments = parser.parse_args()
    parts, seconds = arguments.parts.split(","), min(arguments.seconds, 30.0)
    names = ("fastapi", "uvicorn", "onnxruntime-gpu", "mlflow", "orjson")
    print(
        f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores; "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as name:
        folder = Path(name)
        os.environ["ATELIER_WORKSPACE"] = str(folder / "workspace")
        if "small" in parts:
            small(folder, arguments.rounds, seconds, arguments.clients)
        if "resnet" in parts:
            resnet(folder, arguments.rounds, seconds, arguments.clients)
        if "latency" in parts:
            latency(folder, arguments.rounds, seconds)
        if "start" in parts:
            start(folder, arguments.rounds)


if __name__ == "__main__":
    main()
