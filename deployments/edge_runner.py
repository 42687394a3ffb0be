"""Predicts with the model beside it; needs onnxruntime, numpy and, for pictures, Pillow.

    python predict.py picture.png folder/*.jpg
    python predict.py rows.csv rows.jsonl
    echo '{"rooms": 3, "area": 70.5}' | python predict.py -

One JSON object a line: ``{"input", "label", "scores"}`` or ``{"input", "value"}``, or ``{"input", "error"}`` for one that cannot be read.
Exit status: 0 all were predicted, 1 some were not. A sealed model needs its key in ATELIER_PACKAGE_KEY, and the package cryptography.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def _standard_input() -> Iterator[Any]:
    from algorithms._package_tables import json_rows

    yield from json_rows(sys.stdin.buffer, "standard input")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="pictures; CSV, JSON Lines or Parquet files; - for JSON lines on standard input")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; by default all cores")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from algorithms.package import Package
    from infra.errors import AtelierError

    try:
        package = Package.load(HERE / "package", threads=arguments.threads)
    except AtelierError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_status
    failed = False
    for text in arguments.inputs:
        for result in package.iter_predict(_standard_input() if text == "-" else [text]):
            failed |= "error" in result
            print(json.dumps(result, ensure_ascii=False), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
