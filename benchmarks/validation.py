"""What validation costs: pictures against plain decoding, and tables by size. Both sides in one run.

    python benchmarks/validation.py pictures [--num 10000] [--side 256] [--pairs 3]
    python benchmarks/validation.py table [--rows 1000000] [--columns 20]

Claims: pictures a second at least 0.7 of plain decoding on as many cores; a table of 1 M rows x 20 columns with 60 expectations in at most
6 s besides imports; 20 M rows with bounded memory. Starting the cluster, importing the data set and loading libraries are not counted.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from algorithms.spec import Expectation
from infra.context import StageContext
from infra.datasets.dataset import open_dataset
from infra.datasets.importer import import_source
from infra.settings import Settings
from tasks import _gx
from tasks.validate import validate


def write_pictures(folder: Path, num: int, side: int) -> None:
    """JPEG files of smooth noise, about as large as photographs of that size."""
    rng = np.random.default_rng(0)
    for number in range(num):
        small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        path = folder / f"class-{number % 4}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)


def decode(paths: list[Path]) -> int:
    """The other side: open and decode, nothing else."""
    for path in paths:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()
    return len(paths)


@contextmanager
def opened(folder: Path, slots: int) -> Iterator[StageContext]:
    settings = Settings(workspace=str(folder / "workspace"), cache_dir=folder / "cache", slots=slots)
    with StageContext.open(settings) as context:
        client = context.client()
        client.gather([client.submit(_warm, number, resources={"slot": 1}, pure=False) for number in range(slots * 4)])
        _gx.load()
        _gx.judge_frame(pd.DataFrame({"a": [1]}), [Expectation("expect_column_to_exist", {"column": "a"})])
        yield context


def _warm(number: int) -> int:
    """Load in a worker what a pass needs."""
    import tasks._look

    time.sleep(0.2)
    return len(tasks._look.__name__) + number


@contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """The largest resident size of a process of this program, MiB: ``driver`` and ``worker``, each before and at most."""
    me = psutil.Process()
    sizes: dict[str, float] = {"driver_before": me.memory_info().rss / 2**20, "worker_before": _worker(me), "driver": 0.0, "worker": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            sizes["driver"] = max(sizes["driver"], me.memory_info().rss / 2**20)
            sizes["worker"] = max(sizes["worker"], _worker(me))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


def _worker(me: psutil.Process) -> float:
    """The largest child, MiB."""
    largest = 0.0
    for child in me.children(recursive=True):
        try:
            largest = max(largest, child.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            continue
    return largest


def pictures(num: int, side: int, slots: int, pairs: int) -> None:
    """Decoding and validating the same pictures, one after the other, ``pairs`` times; the pool and the cluster wait while the other works."""
    rates: dict[str, list[float]] = {"decoding": [], "validation": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pictures(folder / "pictures", num, side)
        paths = sorted((folder / "pictures").glob("*/*.jpg"))
        with ProcessPoolExecutor(slots) as pool:
            list(pool.map(decode, [paths[:2]] * slots))  # forked here, before the cluster's threads exist
            with opened(folder, slots) as context:
                context.fresh = True
                data = import_source(context.store, str(folder / "pictures"), "pictures")
                for _ in range(pairs):
                    begin = time.perf_counter()
                    assert sum(pool.map(decode, [paths[part::slots] for part in range(slots)])) == num
                    rates["decoding"].append(num / (time.perf_counter() - begin))
                    begin = time.perf_counter()
                    validate(data, "image-classification/small-cnn", {}, context=context)
                    rates["validation"].append(num / (time.perf_counter() - begin))
    ratio = statistics.median(ours / plain for plain, ours in zip(rates["decoding"], rates["validation"], strict=True))
    told = ", ".join(f"{name} {statistics.median(found):.0f}/s" for name, found in rates.items())
    print(f"{num:,} JPEG of {side}x{side} on {slots} processes, {pairs} pairs: {told}, ratio {ratio:.2f} (claim: 0.70)")


def write_table(path: Path, rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"x{number}" for number in range(columns - 1)]
    writer = None
    for begin in range(0, rows, 500_000):
        size = min(500_000, rows - begin)
        values = {name: rng.normal(size=size) for name in names}
        label = np.where(values["x0"] + rng.normal(size=size) > 0, "yes", "no")
        table = pa.table({**values, "label": label})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def sixty_expectations(columns: int) -> dict[str, Any]:
    """Nulls, range and mean of every column but the target, and as many of the target."""
    rules: list[dict[str, Any]] = []
    for number in range(columns - 1):
        column = f"x{number}"
        rules.append({"type": "expect_column_values_to_not_be_null", "kwargs": {"column": column}})
        rules.append({"type": "expect_column_values_to_be_between", "kwargs": {"column": column, "min_value": -9, "max_value": 9}})
        rules.append({"type": "expect_column_mean_to_be_between", "kwargs": {"column": column, "min_value": -1, "max_value": 1}})
    rules.append({"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "label"}})
    rules.append({"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "label", "value_set": ["no", "yes"]}})
    rules.append({"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}})
    return {"name": "benchmark", "expectations": rules}


def table(rows: int, columns: int, slots: int) -> None:
    suite = sixty_expectations(columns)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_table(folder / "table.parquet", rows, columns)
        with opened(folder, slots) as context:
            data = import_source(context.store, str(folder / "table.parquet"), "table", target="label")
            spent = _cpu()
            with watched_memory() as sizes:
                begin = time.perf_counter()
                validate(data, "tabular-classification/lightgbm", {"target": "label"}, suite=suite, context=context)
                ours = time.perf_counter() - begin
            spent = _cpu() - spent
            plain = _read_only(context, data) if rows <= 2_000_000 else None
    num = len(suite["expectations"])
    print(f"{rows:,} rows x {columns} columns, {num} expectations of a suite besides the standard ones, {slots} processes: {ours:.2f} s")
    print(f"  CPU time of the driver {spent:.2f} s" + (f"; reading the same rows alone, one process: {plain:.2f} s" if plain else ""))
    for name in ("driver", "worker"):
        print(f"  memory of the largest {name}: {sizes[name + '_before']:.0f} MiB before, {sizes[name]:.0f} MiB at most")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _read_only(context: StageContext, data: Any) -> float:
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    begin = time.perf_counter()
    assert sum(part.num_rows for split in dataset.card.num_rows for part in dataset.iter_tables(split))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "pictures", "table"], default="all")
    parser.add_argument("--num", type=int, default=10_000, help="pictures")
    parser.add_argument("--pairs", type=int, default=3, help="of decoding and validating the pictures")
    parser.add_argument("--side", type=int, default=256, help="width and height of a picture, pixels")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--slots", type=int, default=2, help="processes on both sides")
    options = parser.parse_args()
    names = ("great-expectations", "pandas", "pyarrow", "Pillow", "distributed", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in names), f"; {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    if options.what != "table":
        pictures(options.num, options.side, options.slots, options.pairs)
    if options.what != "pictures":
        table(options.rows, options.columns, options.slots)


if __name__ == "__main__":
    main()
