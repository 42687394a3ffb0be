"""A driving process on a host of its own: an elastic job of 1 to 2 ranks on the cluster that the settings name; every event is a line of JSON:
``python cut_program.py FLAGS``, and FLAGS is the folder of ``tests/elastic/elastic_program.py``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from infra.context import StageContext
from infra.elastic.launch import launch_elastic
from infra.elastic.policy import Limits

ROOT = Path(__file__).parents[2]


def tell(event: dict[str, Any]) -> None:
    print(json.dumps(event, default=str), flush=True)


def main() -> None:
    document = {
        "epochs": 3,
        "samples": 6400,
        "batch": 32,
        "sleep": 0.1,
        "flags": sys.argv[1],
        "options": {"commit_every_steps": 5},
    }
    with StageContext.open(report=tell, workers=2) as context:
        launch_elastic(
            json.dumps({**document, "workspace": context.settings.workspace_uri}),
            client=context.client(),
            limits=Limits(1, 2),
            threads_per_rank=1,
            preload=("torch", "algorithms.engines.loop", "infra.elastic.collectives", "horovod.torch?"),
            on_event=tell,
            env={"PYTHONPATH": str(ROOT), **{name: value for name, value in os.environ.items() if name.startswith("ELASTIC_")}},
            module="tests.elastic.elastic_program",
            deadline_s=300.0,
        )


if __name__ == "__main__":
    main()
