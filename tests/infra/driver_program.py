"""A driving process of its own, to be killed: starts a cluster and two ranks that sleep. ``python driver_program.py WORKSPACE``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from infra.cluster import open_cluster
from infra.launch import launch
from infra.settings import Settings


def main() -> None:
    workspace = Path(sys.argv[1])
    with open_cluster(Settings(workspace=str(workspace), slots=2)) as client:
        asleep = []

        def on_event(event: dict[str, object]) -> None:
            asleep.append(event)
            if len(asleep) == 2:
                print("both asleep", flush=True)

        path = {"PYTHONPATH": ":".join(map(str, [Path(__file__).parent, Path(__file__).parent.parent.parent]))}
        try:
            launch(
                json.dumps({"do": "sleep"}), client=client, num_ranks=2, deadline_s=100, on_event=on_event, env=path, module="rank_program"
            )
        except KeyboardInterrupt:
            print(f"interrupted {time.time()}", flush=True)
            raise


if __name__ == "__main__":
    main()
