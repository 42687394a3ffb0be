"""Checkpoints: everything that a training needs to go on as if it had never stopped, without pickle.

    <prefix>/<completed epochs>-<steps in the epoch>/
        model.safetensors  average.safetensors  best.safetensors  optimizer.safetensors
        state.json         position, history, and each rank's random state and running sums

Each is an artifact: published whole, every file under its SHA-256. The last two are kept. Rank 0 writes, in a thread beside the training; every
rank reads.
"""

from __future__ import annotations

import base64
import json
import random
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from infra.artifacts import MANIFEST, fetch, find, publish
from infra.errors import ArtifactNotFoundError
from infra.settings import load_settings
from infra.store import Store

Tensors = dict[str, torch.Tensor]
_KEPT = 2


def copy_state(module: nn.Module) -> Tensors:
    """Weights and buffers, copied to the CPU, contiguous, each piece of memory once."""
    return {name: to_file(tensor) for name, tensor in module.state_dict().items()}


def to_file(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its own, as safetensors takes it."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()


@torch.no_grad()
def restore_state(module: nn.Module, tensors: Tensors) -> None:
    """Put ``copy_state``'s values back into the same memory, with its strides."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(tensors[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """The optimizer's tensors by ``<weight's number>.<name>``, and the rest as a JSON value."""
    whole = optimizer.state_dict()
    tensors: Tensors = {}
    rest: dict[str, Any] = {}
    for number, entries in whole["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = to_file(value)
            else:
                rest[f"{number}.{name}"] = value
    return tensors, {"state": rest, "numbers": sorted(whole["state"])}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, rest: dict[str, Any]) -> None:
    """Put ``optimizer_state``'s values back.

    Moments get the strides of their weight: fused kernels walk weight, gradient and moments in memory order, and a contiguous moment beside
    a channels_last weight would be silently permuted.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {number: {} for number in rest["numbers"]}
    for key, value in [*tensors.items(), *rest["state"].items()]:
        number, name = key.split(".", 1)
        weight = weights[int(number)]
        if isinstance(value, torch.Tensor) and value.shape == weight.shape:
            value = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)
        state[int(number)][name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator of this process, as a JSON value."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "torch": _pack(torch.get_rng_state()),
        "numpy": [kind, np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        found["cuda"] = _pack(torch.cuda.get_rng_state(device))
    return found


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(_unpack(state["torch"]))
    np.random.set_state(tuple(state["numpy"]))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_unpack(state["cuda"]), device)


def _pack(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _unpack(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())


class CheckpointWriter:
    """Rank 0's: publishes checkpoints one after the other in a thread, and removes all but the last two."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store, self.prefix = store, prefix
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="atelier-checkpoint")
        self._last: Future[None] | None = None

    def save(self, epoch: int, step: int, files: dict[str, Tensors], state: dict[str, Any]) -> None:
        """Publish in the background; the tensors must not change any more. An error of the one before is raised here."""
        self.wait()
        self._last = self._pool.submit(self._publish, f"{self.prefix}/{epoch:06d}-{step:08d}", files, state)

    def wait(self) -> None:
        """Return when everything that was saved is published, or raise what went wrong."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _publish(self, key: str, files: dict[str, Tensors], state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory(prefix="atelier-checkpoint-") as folder:
            for name, tensors in files.items():
                save_file(tensors, Path(folder) / f"{name}.safetensors")
            (Path(folder) / "state.json").write_text(json.dumps(state))
            publish(self.store, Path(folder), key, "checkpoint")
        for old in list_checkpoints(self.store, self.prefix)[:-_KEPT]:
            self.store.delete(old)


def list_checkpoints(store: Store, prefix: str) -> list[str]:
    """Keys of the complete checkpoints, oldest first."""
    ending = f"/{MANIFEST}"
    return sorted(key.removesuffix(ending) for key in store.list(f"{prefix}/") if key.endswith(ending))


def load_checkpoint(store: Store, key: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The tensors of each file, and the state.

    Raises:
        CorruptArtifactError: a file is damaged; it is named.
    """
    artifact = find(store, key)
    if artifact is None:
        raise ArtifactNotFoundError(store.uri, key)
    folder = fetch(store, artifact, load_settings().cache_path)
    files = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return files, json.loads((folder / "state.json").read_text())
