"""Great Expectations at work: expectations as data in, verdicts out. Imported only where they are judged: the library takes seconds to load.

Every verdict is reached by Great Expectations' own code, in one of two ways:

``judge_frame``   all the data is one pandas frame (the picture profile, the classes, the columns, a few columns of a table).
``judge_merged``  the data was passed over in chunks by several processes; the counts and moments of the chunks were added up, and the
                  library judges these in place of numbers of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from algorithms.spec import Expectation

if TYPE_CHECKING:
    import pandas as pd

NUM_EXAMPLES = 20
_loading = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """How the data stood up to one expectation.

    Attributes:
        ids: what breaks it: ids of samples, or names of classes or columns; all of them where it is ``per_sample``, else the first few.
        reasons: in words, one for each of ``ids``.
        details: Great Expectations' own result, a JSON value; Data Docs are drawn from it.
        error: why it could not be judged at all; empty if it could.
    """

    expectation: Expectation
    success: bool
    observed: Any = None
    num_unexpected: int = 0
    num_elements: int = 0
    ids: list[Any] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def load() -> Any:
    """The module ``great_expectations``, loaded without usage statistics, and without its catching all warnings of the process."""
    with _loading:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import great_expectations
        logging.captureWarnings(False)  # its import switches this on for the whole process
        logging.getLogger("great_expectations").setLevel(logging.CRITICAL)  # what goes wrong is in the results
        return great_expectations


def load_in_background() -> Future[Any]:
    """Begin to load the library while other processes look at the data."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="load-great-expectations")
    loading = pool.submit(load)
    pool.shutdown(wait=False)
    return loading


@lru_cache(maxsize=1)
def _context() -> Any:
    gx = load()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def configuration(expectation: Expectation, index: int = 0) -> dict[str, Any]:
    """The expectation as Great Expectations writes it; ``index`` finds its result again."""
    severity = "critical" if expectation.severity == "error" else "warning"
    return {"type": expectation.type, "kwargs": dict(expectation.kwargs), "severity": severity, "meta": {"index": index}}


def faults(expectation: Expectation) -> list[str]:
    """What is wrong with an expectation as such: an unknown type, unknown or missing arguments, values of a wrong type."""
    load()
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import get_expectation_impl
    from pydantic.v1 import ValidationError

    try:
        get_expectation_impl(expectation.type)
    except ExpectationNotFoundError:
        return [f"unknown type {expectation.type!r}{_nearest(expectation.type)}"]
    try:
        ExpectationConfiguration(**configuration(expectation)).to_domain_obj()
    except ValidationError as error:
        found = ((".".join(str(part) for part in fault["loc"] if part != "__root__"), fault["msg"]) for fault in error.errors())
        return [f"{expectation.type}: {name + ': ' if name else ''}{message}" for name, message in found]
    except (TypeError, ValueError) as error:
        return [f"{expectation.type}: {error}"]
    return []


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    from great_expectations.expectations.registry import list_registered_expectation_implementations

    near = get_close_matches(name, list_registered_expectation_implementations(), n=3)
    return f"; nearest: {', '.join(near)}" if near else ""


def is_row_wise(expectation: Expectation) -> bool:
    """Whether each row is judged by itself, so that counts of chunks can be added and single rows set aside."""
    load()
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations.registry import get_expectation_impl

    whole_column = ("_unique", "z_scores", "outliers", "increasing", "decreasing")
    maps = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    within_row = expectation.type == "expect_select_column_values_to_be_unique_within_record"
    named_whole = any(word in expectation.type for word in whole_column) and not within_row
    return issubclass(get_expectation_impl(expectation.type), maps) and not named_whole


def _validator(engine: Any) -> Any:
    from great_expectations.validator.validator import Validator

    return Validator(execution_engine=engine, data_context=_context())


def _run(engine: Any, expectations: Sequence[Expectation], result_format: dict[str, Any]) -> list[Any]:
    """Great Expectations' results, in the order of ``expectations``."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    configurations = [ExpectationConfiguration(**configuration(expectation, index)) for index, expectation in enumerate(expectations)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = _validator(engine).graph_validate(configurations=configurations, runtime_configuration={"result_format": result_format})
    return sorted(results, key=lambda result: result.expectation_config.meta["index"])


def judge_frame(frame: pd.DataFrame, expectations: Sequence[Expectation], id_column: str | None = None) -> list[Outcome]:
    """Judge all expectations on one frame. ``id_column`` names the rows that break them."""
    if not expectations:
        return []
    load()
    from great_expectations.execution_engine import PandasExecutionEngine

    frame = frame.reset_index(drop=True)
    result_format: dict[str, Any] = {
        "result_format": "BASIC" if id_column is None else "COMPLETE",
        "partial_unexpected_count": NUM_EXAMPLES,
    }
    results = _run(PandasExecutionEngine(batch_data_dict={"data": frame}), expectations, result_format)
    outcomes = []
    for expectation, result in zip(expectations, results, strict=True):
        rows = [] if id_column is None else (result.result.get("unexpected_index_list") or [])
        if not expectation.per_sample:
            rows = rows[:NUM_EXAMPLES]
        broken: list[dict[str, Any]] = frame.iloc[rows].to_dict("records") if rows else []  # type: ignore[assignment]
        ids = [row[str(id_column)] for row in broken]
        outcomes.append(_outcome(expectation, result, ids, [explain(expectation, row) for row in broken]))
    return outcomes


def judge_merged(expectation: Expectation, metrics: Mapping[str, Any], ids: list[Any], rows: Iterable[Mapping[str, Any]]) -> Outcome:
    """Judge one expectation on metrics that were merged from chunks.

    Args:
        metrics: by Great Expectations' names: ``table.row_count``, ``column_values.between.unexpected_count``, ``column.mean``, ...
        ids, rows: the samples that break it, and what ``reason`` may tell of them.
    """
    load()
    results = _run(_merged_engine(metrics), [expectation], {"result_format": "BASIC", "partial_unexpected_count": NUM_EXAMPLES})
    return _outcome(expectation, results[0], ids, [explain(expectation, row) for row in rows])


def _merged_engine(metrics: Mapping[str, Any]) -> Any:
    import pandas as pd
    from great_expectations.execution_engine import PandasExecutionEngine

    class MergedEngine(PandasExecutionEngine):
        """Answers with metrics that exist already instead of computing them from a frame."""

        def resolve_metrics(self, metrics_to_resolve: Iterable[Any], *args: Any, **kwargs: Any) -> dict[Any, Any]:
            # What is not there is a step on the way to what is, such as the condition behind a count.
            return {metric.id: metrics.get(metric.metric_name) for metric in metrics_to_resolve}

    return MergedEngine(batch_data_dict={"data": pd.DataFrame()})


def map_metric(expectation: Expectation) -> str:
    """The name of the metric that a row-wise expectation counts, such as ``column_values.between``."""
    from great_expectations.expectations.registry import get_expectation_impl

    return str(getattr(get_expectation_impl(expectation.type), "map_metric"))  # noqa: B009  not declared by the base class


def _outcome(expectation: Expectation, result: Any, ids: list[Any], reasons: list[str]) -> Outcome:
    details = result.to_json_dict()
    found = details["result"] or {}
    for name in ("unexpected_list", "unexpected_index_list", "partial_unexpected_index_list", "unexpected_index_query"):
        found.pop(name, None)  # as long as the data; what breaks it is told by ids and reasons
    details["expectation_config"]["kwargs"].pop("batch_id", None)
    error = _error(details.get("exception_info") or {})
    details["exception_info"] = {"raised_exception": bool(error), "exception_traceback": None, "exception_message": error or None}
    return Outcome(
        expectation=expectation,
        success=bool(result.success) and not error,
        observed=found.get("observed_value"),
        num_unexpected=int(found.get("unexpected_count") or 0),
        num_elements=int(found.get("element_count") or 0),
        ids=ids,
        reasons=reasons,
        details=details,
        error=error,
    )


def _error(info: dict[str, Any]) -> str:
    """The first line of what an expectation raised; the library gives one description, or one for each metric."""
    several = [info] if "raised_exception" in info else [one for one in info.values() if isinstance(one, dict)]
    words = [str(one.get("exception_message") or "unknown") for one in several if one.get("raised_exception")]
    return words[0].strip().split("\n")[0] if words else ""


def explain(expectation: Expectation, row: Mapping[str, Any]) -> str:
    """Why a row breaks an expectation, in words."""
    if expectation.reason:
        return expectation.reason.format_map(row)
    column = str(expectation.kwargs.get("column"))
    value = f" ({column} is {row[column]!r})" if column in row else ""
    return f"does not satisfy {expectation.type}{value}"
