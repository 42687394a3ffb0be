"""A tuning in a process of its own, to be killed: ``python driver_program.py TRIALS``; the workspace holds the data set ``wine``."""

from __future__ import annotations

import sys

from infra.context import StageContext
from infra.datasets.importer import import_source
from tasks.tune import Tuned, TuneSettings, tune

ALGORITHM = "tabular-classification/mlp"
OPTIONS = {"target": "kind", "epochs": 6, "early_stopping": 0}


def run(source: str, trials: int, context: StageContext, **settings: object) -> Tuned:
    from algorithms.catalog import find_algorithm

    config = find_algorithm(ALGORITHM).config(OPTIONS).model_dump(mode="json")
    data = import_source(context.store, source, "wine")
    return tune(ALGORITHM, config, data, TuneSettings.model_validate({"trials": trials, **settings}), context=context)


def main() -> None:
    def tell(event: dict[str, object]) -> None:
        if event["kind"] == "progress":
            print(f"ended {event['step']}", flush=True)

    with StageContext.open(report=tell) as context:
        tuned = run(sys.argv[1], int(sys.argv[2]), context)
    print(tuned.model_dump_json(exclude={"artifact"}), flush=True)


if __name__ == "__main__":
    main()
