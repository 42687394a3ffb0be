"""A compression in a process of its own, to be killed: ``python driver_program.py SOURCE``; trains and packages first."""

from __future__ import annotations

import sys

from algorithms.catalog import find_algorithm
from infra.context import StageContext
from infra.datasets.importer import import_source
from tasks.compress import CompressSettings, compress
from tasks.package import package
from tasks.train import train

ALGORITHM = "image-classification/small-cnn"
OPTIONS = {"epochs": 24, "image_size": 8, "width": 1.0, "batch_size": 8, "checkpoint_every_steps": 8, "early_stopping": 0}
SETTINGS = CompressSettings(mode="prune", max_accuracy_loss=0.9)  # every candidate fits, so the choice is by speed and size


def main() -> None:
    def tell(event: dict[str, object]) -> None:
        if event["kind"] == "log":
            print(event["message"], flush=True)

    with StageContext.open(report=tell) as context:
        data = import_source(context.store, sys.argv[1], "data")
        config = find_algorithm(ALGORITHM).config(OPTIONS).model_dump(mode="json")
        trained = train(ALGORITHM, config, data, name="model", context=context)
        packaged = package(ALGORITHM, config, data, trained, {}, context=context)
        done = compress(ALGORITHM, config, data, trained, packaged, SETTINGS, context=context)
    print(done.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
