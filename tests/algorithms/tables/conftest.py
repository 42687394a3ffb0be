"""A table with everything that tables have: numbers with gaps, text known and unknown, booleans, dates, and columns of no use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from algorithms.run import RunSpec, execute
from infra.artifacts import Artifact
from infra.collectives import LocalCollectives
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.importer import import_source
from infra.settings import load_settings
from infra.store import open_store


def mixed_table(num_rows: int = 900, seed: int = 0) -> pd.DataFrame:
    """Targets ``price`` (a number), ``grade`` (three classes), ``sold`` (a boolean) and ``level`` (whole numbers 1 to 3)."""
    random = np.random.default_rng(seed)
    area, age = random.gamma(6, 15, num_rows), random.integers(0, 80, num_rows).astype(float)
    garden = random.random(num_rows) < 0.4
    city = random.choice(["Arles", "Bern", "Cork", "Delft"], num_rows, p=[0.4, 0.3, 0.2, 0.1])
    street = np.array([f"street {index}" for index in random.integers(0, 40, num_rows)], dtype=object)
    built = pd.Timestamp("1995-03-01") + pd.to_timedelta(random.integers(0, 25 * 365 * 24, num_rows), unit="h")
    by_city = pd.Series({"Arles": 0, "Bern": 60, "Cork": 20, "Delft": -30})
    by_street = dict(zip(sorted(set(street)), random.normal(0, 25, 40), strict=False))
    price = 2 * area - 0.5 * age + 40 * garden + by_city[city].to_numpy() + [by_street[name] for name in street] + 2 * (built.year - 2000)
    price = np.asarray(price) + random.normal(0, 8, num_rows) + 100
    rank = pd.Series(price).rank(pct=True).to_numpy()
    frame = pd.DataFrame(
        {
            "area": np.where(random.random(num_rows) < 0.1, np.nan, area),
            "age": pd.array(np.where(random.random(num_rows) < 0.1, np.nan, age), dtype="Int64"),
            "garden": pd.array(garden, dtype="boolean"),
            "city": pd.Series(city).where(random.random(num_rows) >= 0.05),
            "street": street,
            "built": pd.Series(built).where(random.random(num_rows) > 0.05).astype("datetime64[us]"),
            "country": "EU",
            "number": np.arange(num_rows),
            "key": [f"{value:016x}" for value in random.integers(0, 2**62, num_rows)],
            "price": price,
            "grade": np.select([rank < 0.4, rank < 0.75], ["low", "middle"], "high"),
            "sold": rank < 0.5,
            "level": 1 + (rank > 0.3).astype(int) + (rank > 0.7),
        }
    )
    frame.loc[random.random(num_rows) < 0.05, "garden"] = pd.NA
    return frame


@dataclass
class Runs:
    """A folder store, tables in it, and verbs that are run in this process."""

    folder: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def workspace(self) -> str:
        return str(self.folder / "workspace")

    def add(self, frame: pd.DataFrame, target: str | None, *, regression: bool = False, name: str = "table") -> DatasetRef:
        path = self.folder / f"{name}.parquet"
        frame.to_parquet(path, index=False)
        return import_source(open_store(self.workspace), str(path), name, target=target, regression=regression)

    def open(self, ref: DatasetRef) -> Dataset:
        return open_dataset(open_store(self.workspace), ref, load_settings().cache_path)

    def spec(self, verb: Any, algorithm: str, ref: DatasetRef, options: dict[str, Any], output: str, **more: Any) -> RunSpec:
        key = f"runs/{output}/{verb}"
        return RunSpec(verb=verb, algorithm=algorithm, config=options, dataset=ref, workspace=self.workspace, output=key, threads=1, **more)

    def run(self, spec: RunSpec, report: Callable[[dict[str, Any]], None] | None = None) -> Artifact:
        artifact = execute(spec, LocalCollectives(), report or self.events.append)
        assert artifact is not None
        return artifact

    def all_verbs(self, algorithm: str, ref: DatasetRef, options: dict[str, Any], output: str) -> dict[str, Path]:
        """Train, evaluate and export; the folder of each."""
        trained = self.run(self.spec("train", algorithm, ref, options, output, checkpoints=f"runs/{output}/checkpoints"))
        found = {"train": trained}
        for verb in ("evaluate", "export"):
            found[verb] = self.run(self.spec(verb, algorithm, ref, options, output, model=trained, lineage={"model": "test"}))
        return {verb: self.path(artifact) for verb, artifact in found.items()}

    def path(self, artifact: Artifact) -> Path:
        return Path(self.workspace) / artifact.key

    def json(self, path: Path) -> Any:
        return json.loads(path.read_text())


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(scope="session")
def mixed_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One store for all tests on the mixed table."""
    return Runs(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def mixed_classes(mixed_runs: Runs) -> DatasetRef:
    return mixed_runs.add(mixed_table().drop(columns=["price", "sold", "level"]), "grade", name="classes")


@pytest.fixture
def mixed_numbers(mixed_runs: Runs) -> DatasetRef:
    return mixed_runs.add(mixed_table().drop(columns=["grade", "sold", "level"]), "price", regression=True, name="numbers")
