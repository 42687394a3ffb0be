"""A driving process on a host of its own: trains through the real stage on the cluster that the settings name, once with each back end:
``python hosts_program.py PICTURES BACKEND...``."""

from __future__ import annotations

import json
import sys
from typing import Any

from algorithms.catalog import find_algorithm
from infra.artifacts import read_file
from infra.cluster import known_workers
from infra.context import StageContext
from infra.datasets.importer import import_source
from tasks.train import train

ALGORITHM = "image-classification/small-cnn"
OPTIONS: dict[str, Any] = {"epochs": 4, "image_size": 8}


def tell(event: dict[str, Any]) -> None:
    """Every event as a line of JSON on standard output."""
    print(json.dumps(event, default=str), flush=True)


def main() -> None:
    with StageContext.open(report=tell, workers=2) as context:
        data = import_source(context.store, sys.argv[1], "data")
        config = find_algorithm(ALGORITHM).config(OPTIONS).model_dump(mode="json")
        tell({"kind": "workers", "addresses": sorted(known_workers(context.client()) or {})})
        context.fresh = True
        for backend in sys.argv[2:]:
            context.backend = "horovod" if backend == "horovod" else "torch"
            trained = train(ALGORITHM, config, data, name="model", context=context)
            history = json.loads(read_file(context.store, trained.artifact, "history.json"))
            tell({"kind": "done", "backend": backend, "world_size": trained.world_size, "history": history})


if __name__ == "__main__":
    main()
