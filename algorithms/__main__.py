"""``python -m algorithms '<RunSpec as JSON>'``: one rank; how it finds the others stands in its environment (``infra.collectives``)."""

from __future__ import annotations

import os
import sys
import traceback


def main() -> int:
    from algorithms.run import RunSpec, events_to_fd, execute
    from infra.collectives import open_collectives
    from infra.errors import AtelierError, to_wire

    spec = RunSpec.model_validate_json(sys.argv[1])
    report = events_to_fd()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(spec.threads)  # a Dask nanny sets these to 1
    try:
        with open_collectives(spec.threads) as collectives:
            execute(spec, collectives, report)
    except AtelierError as error:
        report({"kind": "error", "error": to_wire(error)})
        print(error, file=sys.stderr)
        return error.exit_status
    except Exception as error:
        report({"kind": "error", "traceback": traceback.format_exc(), "message": f"{type(error).__name__}: {error}"})
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
