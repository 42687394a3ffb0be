"""The package of a table model: its ONNX, compared with the trained model on real and on awkward rows, and judged on the test split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from algorithms.run import Run
from algorithms.spec import Config
from algorithms.tables.columns import ColumnPlan, read_text
from algorithms.tables.graph import Head, build_model, input_schema
from algorithms.tables.judging import predict_split
from algorithms.tables.matrix import iter_labelled
from algorithms.tables.target import Target
from infra.datasets.dataset import Dataset

PARITY_ROWS = 256
AWKWARD_ROWS = 16
BATCH_SIZES = (1, 64)
TOLERANCE = 1e-4
FLOAT32_RESOLUTION = 3e-7
UNSEEN = "a value that no training row had"


def export_table(
    config: Config,
    data: Dataset,
    run: Run,
    *,
    plan: ColumnPlan,
    target: Target,
    head: Head,
    predict: Callable[[NDArray[np.float32]], NDArray[Any]],
) -> None:
    """Write the package to ``run.output_dir``.

    Args:
        head: the model's own operators.
        predict: the trained model: from the matrix [N, F] to scores [N, C], or numbers [N] in the target's unit.

    Raises:
        ParityError: the package does not give what the trained model gives.
    """
    from algorithms.package import Package, check_parity, record_metrics, write_package

    folder = run.output_dir
    model = build_model(plan, head, num_classes=len(target.classes), mean=target.mean, std=target.std)
    write_package(
        folder,
        onnx_model_bytes=model,
        task=run.spec.algorithm.split("/", 1)[0],
        algorithm=run.spec.algorithm,
        inputs_schema=input_schema(plan),
        output_schema=_output_schema(target),
        labels=target.classes,
        preprocessing={"summary": _summary(plan), "columns": plan.model_dump(mode="json"), "target": target.model_dump(mode="json")},
        lineage={"dataset": data.card.digest, **run.spec.lineage},
        config=config.model_dump(mode="json"),
        metrics={},
    )
    sample = parity_rows(data, plan, target)
    reference = predict(plan.transform(sample))
    tolerance = _tolerance(target, reference)
    difference = check_parity(folder, plan.raw(sample), reference, BATCH_SIZES, tolerance)
    run.report(
        {
            "kind": "log",
            "message": f"The package gives what the model gives: largest difference {difference:.1e} on {sample.num_rows} rows.",
        }
    )
    package = Package.load(folder, providers=["CPUExecutionProvider"], threads=run.spec.threads, verify=False)
    judged = predict_split(data, "test", plan, target, lambda table: package.predict_arrays(plan.raw(table), batch_size=4096))
    record_metrics(folder, judged.metrics(), {"largest_difference": difference, "tolerance": tolerance})


def _tolerance(target: Target, reference: NDArray[Any]) -> float:
    """Of scores, or of numbers as a share of the largest: a fraction of the target's spread, but not below what float32 can tell apart."""
    if target.is_class:
        return TOLERANCE
    return max(TOLERANCE * target.std / max(float(np.abs(reference).max()), 1e-12), FLOAT32_RESOLUTION)


def parity_rows(data: Dataset, plan: ColumnPlan, target: Target) -> pa.Table:
    """Rows to compare on: of the test split (or train), and some of them with every value missing or every text unseen."""
    split = "test" if data.num_rows("test") else "train"
    table = next(iter_labelled(data, split, plan, target))[0].select(plan.raw_columns)
    while table.num_rows < max(BATCH_SIZES):
        table = pa.concat_tables([table, table])
    table = table.take(pa.array(np.unique(np.linspace(0, table.num_rows - 1, PARITY_ROWS).astype(np.int64))))
    parts = [table]
    for index in range(table.num_columns):
        parts.append(
            table.slice(0, AWKWARD_ROWS // 8).set_column(index, table.field(index), pa.nulls(AWKWARD_ROWS // 8, table.field(index).type))
        )
    empty = pa.table([pa.nulls(AWKWARD_ROWS, field.type) for field in table.schema], schema=table.schema)
    parts.append(empty)
    unseen = table.slice(0, AWKWARD_ROWS)
    for column in plan.categories:
        place = unseen.schema.get_field_index(column.name)
        text = pa.array([UNSEEN] * len(read_text(unseen[column.name])), pa.string())
        unseen = unseen.set_column(place, column.name, text.cast(unseen.field(place).type))
    return pa.concat_tables([*parts, unseen])


def _output_schema(target: Target) -> dict[str, Any]:
    if not target.is_class:
        return {
            "type": "object",
            "properties": {"value": {"type": "number", "description": f"Estimate of {target.name}."}},
            "required": ["value"],
        }
    return {
        "type": "object",
        "properties": {
            "label": {"type": "string", "enum": target.classes, "description": f"The most probable {target.name}."},
            "scores": {"type": "object", "additionalProperties": {"type": "number"}, "description": "Probability of each label."},
        },
        "required": ["label", "scores"],
    }


def _summary(plan: ColumnPlan) -> str:
    missing = "stay missing where training knew missing ones, else get the median" if plan.keep_nan else "get the median and an indicator"
    parts = [f"{len(plan.numeric)} numbers, booleans and dates (days since 1970, UTC); missing values {missing}"] if plan.numeric else []
    if plan.categories:
        means = sum(column.means is not None for column in plan.categories)
        parts.append(
            f"{len(plan.categories)} text columns, {means} of them as the mean target of their value; unseen values count as 'other'"
        )
    if plan.offset:
        parts.append("numbers scaled to mean 0 and standard deviation 1")
    return "; ".join(parts) + "."
