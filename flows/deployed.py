"""Every preset's flow under a name that Prefect can import: ``flows.deployed.image_classification__resnet18``. Nothing is made before it is asked for."""

from __future__ import annotations

from typing import Any


def entrypoint(algorithm: str) -> str:
    """Where Prefect finds the flow of a preset."""
    return f"flows.deployed.{_attribute(algorithm)}"


def _attribute(algorithm: str) -> str:
    return algorithm.replace("/", "__").replace("-", "_")


def __getattr__(name: str) -> Any:
    from algorithms.catalog import ALGORITHMS
    from flows.presets import preset

    for algorithm in ALGORITHMS:
        if _attribute(algorithm.name) == name:
            return preset(algorithm.name)
    raise AttributeError(f"module 'flows.deployed' has no flow {name!r}")
