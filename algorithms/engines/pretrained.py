"""Weights to start from: safetensors at a path or a URI."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from algorithms.run import Run
from infra.errors import InvalidOptionError, SourceNotFoundError
from infra.store import open_store


@torch.no_grad()
def load_pretrained(model: nn.Module, source: str, run: Run) -> None:
    """Put the weights of a file into the network where names and shapes fit; tell what did not.

    A last layer for other classes does not fit and keeps its random weights.

    Raises:
        SourceNotFoundError: there is no such file.
        InvalidOptionError: it is no safetensors file, or hardly anything in it fits.
    """
    path = _fetch(source, run)
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise InvalidOptionError("training", [f"pretrained: {source} is not a safetensors file: {error}"]) from None
    found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    own = model.state_dict()
    fitting = [name for name in own if name in found and found[name].shape == own[name].shape]
    other_shape = [f"{n} ({list(found[n].shape)} in the file, {list(own[n].shape)} here)" for n in own if n in found and n not in fitting]
    missing = [name for name in own if name not in found]
    share = sum(own[name].numel() for name in fitting) / max(sum(tensor.numel() for tensor in own.values()), 1)
    if not fitting or share < 0.1:
        raise InvalidOptionError(
            "training",
            [
                f"pretrained: {source} fits {len(fitting)} of {len(own)} tensors of this network; the file has {', '.join(sorted(found)[:4])}, ..."
            ],
            f"This network has {', '.join(list(own)[:4])}, ...: weights of another architecture cannot be used.",
        )
    for name in fitting:
        own[name].copy_(found[name])
    if run.is_main:
        fresh = other_shape + missing
        rest = f" Random weights in {', '.join(fresh[:6])}{', ...' if len(fresh) > 6 else ''}." if fresh else ""
        run.report({"kind": "log", "message": f"Starts from {source}: {len(fitting)} of {len(own)} tensors ({share:.0%}).{rest}"})


def _fetch(source: str, run: Run) -> Path:
    if "://" not in source:
        path = Path(source).expanduser()
        if not path.is_file():
            raise SourceNotFoundError(source, "pretrained wants a path or URI of a safetensors file.")
        return path
    folder, _, name = source.rpartition("/")
    path = run.scratch_dir / "pretrained.safetensors"
    store = open_store(folder)
    if not store.exists(name):
        raise SourceNotFoundError(source, "pretrained wants a path or URI of a safetensors file.")
    store.get_file(name, path)
    return path
