"""What orchestration costs: the pipeline against the same stages called as plain functions in one process, in one run.

    python benchmarks/orchestration.py [--pairs 3] [--epochs 14] [--workers 2]

Three sides, one after the other, each in a process and a workspace of its own, the whole process timed:
    plain      the functions of ``tasks/`` in order, no Prefect
    embedded   ``atelier run``, which starts its own Prefect API
    server     ``atelier run`` beside a Prefect API that runs already
Claims: embedded at most 10 s + 5 % above plain; server at most 3 s + 5 % above plain.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from infra.datasets.digits import write_digits
from infra.prefect_server import EmbeddedServer
from infra.settings import Settings

ALGORITHM = "image-classification/small-cnn"


def plain(data: str, workers: int, epochs: int) -> None:
    """What ``flows.training.run_pipeline`` does, without Prefect."""
    from algorithms.catalog import find_algorithm
    from infra.context import StageContext
    from tasks.augment import training_gallery
    from tasks.evaluate import evaluate
    from tasks.explain import explain
    from tasks.import_data import import_data, source_key
    from tasks.package import package
    from tasks.register import register
    from tasks.report import CardExtras, write_card
    from tasks.train import train
    from tasks.validate import validate

    config = find_algorithm(ALGORITHM).config({"epochs": epochs}).model_dump(mode="json")
    ratios = (0.7, 0.15, 0.15)
    with StageContext.open(workers=workers) as context:
        context.start_cluster()
        key = source_key(data, target=None, regression=False, ratios=ratios, split_seed=0, context=context)
        source = import_data(data, key, "digits", "image", None, False, ratios, 0, context=context)
        checked = validate(source, ALGORITHM, config, context=context)
        trained = train(ALGORITHM, config, checked.data, name="digits", context=context)
        evaluation = evaluate(ALGORITHM, config, checked.data, trained, context=context)
        packaged = package(ALGORITHM, config, checked.data, trained, {"source": data}, context=context)
        explained = explain(ALGORITHM, config, checked.data, trained, evaluation, packaged, checked.report, context=context)
        card_key = f"runs/{trained.run_key}/card-digits"
        registered = register(
            packaged,
            name="digits",
            algorithm=ALGORITHM,
            data=checked.data,
            run_id=trained.run_id,
            min_gain=0.001,
            run_card_key=card_key,
            context=context,
        )
        request = {"algorithm": ALGORITHM, "data": data, "options": {"epochs": epochs}}
        extras = CardExtras(gallery=training_gallery(ALGORITHM, config, checked.data, context=context), explained=explained.artifact)
        write_card(
            card_key, request, source, checked, checked.data, trained, evaluation, packaged, registered, config, extras, context=context
        )


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of a whole process in an empty workspace."""
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
        begin = time.monotonic()
        done = subprocess.run(
            command,
            env={**environment, "ATELIER_WORKSPACE": f"{folder}/workspace"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=900,
            check=False,
        )
        seconds = time.monotonic() - begin
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain", metavar="DATA", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(arguments.plain, arguments.workers, arguments.epochs)
        return
    sides: dict[str, list[float]] = {"plain": [], "embedded": [], "server": []}
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
        data = str(write_digits(Path(folder) / "digits"))
        cache = Path(folder) / "cache"
        environment = {**os.environ, "ATELIER_CACHE_DIR": str(cache)}
        run = [sys.executable, "-m", "deployments.cli", "run", ALGORITHM, "--data", data, "--workers", str(arguments.workers)]
        run += ["--name", "digits", "--set", f"epochs={arguments.epochs}"]
        own = [sys.executable, __file__, "--plain", data, "--workers", str(arguments.workers), "--epochs", str(arguments.epochs)]
        timed(run, environment)  # warms the templates, the decoded pictures and the disk
        with EmbeddedServer(Settings(workspace=f"{folder}/server", cache_dir=cache)) as server:
            url = server.wait()
            for _ in range(arguments.pairs):
                sides["plain"].append(timed(own, environment))
                sides["embedded"].append(timed(run, environment))
                sides["server"].append(timed(run, {**environment, "PREFECT_API_URL": url}))
    median = {name: statistics.median(seconds) for name, seconds in sides.items()}
    print(f"prefect {version('prefect')}, distributed {version('distributed')}, Python {platform.python_version()}, {os.cpu_count()} cores")
    for name, seconds in sides.items():
        print(f"{name:<9} median {median[name]:6.1f} s   {' '.join(f'{one:.1f}' for one in seconds)}")
    for name, allowed in (("embedded", 10.0), ("server", 3.0)):
        extra, limit = median[name] - median["plain"], allowed + 0.05 * median["plain"]
        verdict = "holds" if extra <= limit else "does not hold"
        print(f"{name}: {extra:+.1f} s, ratio {median[name] / median['plain']:.2f}; at most {limit:.1f} s: {verdict}")


if __name__ == "__main__":
    main()
