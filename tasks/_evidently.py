"""Evidently: its distances between a served and a learned column, and its report of several. Values in, values out.

Numbers: the Wasserstein distance over the standard deviation of the reference. Classes: the Jensen-Shannon distance of the shares (natural
logarithm; 0.833: nothing in common). These are what Evidently itself takes for samples of more than 1,000 rows.
"""

from __future__ import annotations

import html
import importlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "class"]
DISTANCES = {"number": "wasserstein", "class": "jensenshannon"}
MOST_COLUMNS = 20  # of a report: Evidently takes 0.2 s and 70 kB for each
Values = NDArray[np.float64] | Sequence[str]


class Sample(NamedTuple):
    """A column as it was served and as it was learned: float64 arrays, finite; or texts. Neither is empty."""

    name: str
    kind: Kind
    served: Values
    learned: Values


@contextmanager
def _quietly() -> Iterator[None]:
    """Evidently warns of what it does itself: options that pandas 3 no longer needs, a division by an empty share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _import_evidently() -> Any:
    """The package, imported where it is needed: that takes 2 s.

    Evidently 0.7.23 imports a name that pandas 3 no longer has, for a check that is not used here.
    """
    types: Any = importlib.import_module("pandas.core.dtypes.common")
    if not hasattr(types, "infer_dtype_from_object"):
        types.infer_dtype_from_object = lambda dtype: types.pandas_dtype(dtype).type
    with _quietly():
        for module in ("presets", "legacy.calculations.stattests", "legacy.core"):
            importlib.import_module(f"evidently.{module}")
        return importlib.import_module("evidently")


def distance(sample: Sample) -> float:
    """At least 0; the same whatever unit the numbers have. A constant reference has no standard deviation: 1 if anything else is served."""
    import pandas as pd

    served, learned = sample.served, sample.learned
    if sample.kind == "number":
        served, learned = np.asarray(served, dtype=np.float64), np.asarray(learned, dtype=np.float64)
        spread, size = float(learned.std()), max(1.0, float(np.abs(learned).max()))
        if spread <= 1e-12 * size:
            return float(np.abs(served - learned[0]).max() > 1e-9 * size)
        # Evidently takes no deviation below 0.001: in grams and in tonnes the same shift would have two distances.
        served, learned = served / spread, learned / spread
    legacy = _import_evidently().legacy
    tests, types = legacy.calculations.stattests, legacy.core.ColumnType
    test, kind = {
        "number": (tests.wasserstein_stat_test, types.Numerical),
        "class": (tests.jensenshannon_stat_test, types.Categorical),
    }[sample.kind]
    with _quietly():
        found = test(pd.Series(learned), pd.Series(served), kind, None)
    return round(float(np.nan_to_num(found.drift_score)), 9)  # classes are summed in any order


def report(samples: Sequence[Sample], bars: Sequence[float]) -> str:
    """Evidently's own page of the first 20 columns, as one HTML file with its script (4 MB) that loads nothing else.

    Args:
        samples: of different names.
        bars: distance above which the column of the same place is marked.
    """
    import pandas as pd

    evidently = _import_evidently()
    shown = [one._replace(name=html.escape(one.name)) for one in samples[:MOST_COLUMNS]]
    frames = [
        pd.DataFrame({one.name: pd.Series(_escaped(one.kind, values)) for one, values in zip(shown, side, strict=True)})
        for side in ([one.served for one in shown], [one.learned for one in shown])
    ]
    names: dict[str, list[str]] = {kind: [one.name for one in shown if one.kind == kind] for kind in DISTANCES}
    definition = evidently.DataDefinition(numerical_columns=names["number"], categorical_columns=names["class"])
    preset = evidently.presets.DataDriftPreset(
        num_method=DISTANCES["number"],
        cat_method=DISTANCES["class"],
        per_column_threshold={one.name: bar for one, bar in zip(shown, bars, strict=False)},
    )
    now, then = (evidently.Dataset.from_pandas(frame, definition) for frame in frames)
    with _quietly(), tempfile.TemporaryDirectory(prefix="atelier-evidently-") as scratch:
        path = Path(scratch) / "report.html"
        evidently.Report([preset]).run(now, then).save_html(str(path))
        return path.read_text(encoding="utf-8")


def _escaped(kind: Kind, values: Values) -> Any:
    """Texts come from whoever sends requests, and Evidently writes them into a script as they are."""
    return values if kind == "number" else [html.escape(str(value)) for value in values]
