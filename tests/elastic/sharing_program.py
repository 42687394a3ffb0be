"""The driver of an elastic job in a process of its own, to be killed: ``python -m tests.elastic.sharing_program SCHEDULER DOCUMENT FOLDER``.

It prints ``step`` at each step of its ranks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.elastic.launch import launch_elastic
from infra.elastic.policy import Limits


def main() -> None:
    from distributed import Client

    scheduler, document, folder = sys.argv[1:]

    def tell(event: dict[str, object]) -> None:
        if event["kind"] == "step":
            print("step", flush=True)

    with Client(scheduler, set_as_default=False) as client:
        launch_elastic(
            document,
            client=client,
            limits=Limits(1, 3),
            threads_per_rank=1,
            on_event=tell,
            env={"PYTHONPATH": os.environ["PYTHONPATH"]},
            module="tests.elastic.elastic_program",
            log_dir=Path(folder) / "logs",
            deadline_s=300.0,
        )


if __name__ == "__main__":
    main()
