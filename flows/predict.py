"""Batch prediction as a flow: a registered model over any number of pictures or rows."""

from __future__ import annotations

import time

from prefect.artifacts import create_table_artifact
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import artifact_key
from flows.embedded import embedded_flow, open_context
from flows.stages import StageTime, run_stage, stage, stage_context
from infra.errors import InvalidOptionError
from infra.registry import Registry
from tasks.predict_batch import Predicted, check_output, predict_batch

predict_stage = stage(predict_batch, name="predict")


class BatchResult(BaseModel):
    """What a batch prediction ends with."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    output: str
    num_inputs: int
    num_failed: int = Field(description="Inputs that have an error instead of a prediction.")
    num_done_before: int = Field(description="Parts that an earlier, interrupted call had done.")
    seconds: float


@embedded_flow(name="batch-predict")
def batch_predict(model: str, inputs: list[str], output: str, rows_per_part: int = 2048, fresh: bool = False) -> BatchResult:
    """Predict pictures or rows with a registered model, on the Dask cluster.

    Args:
        model: NAME (its champion), NAME@ALIAS or NAME/VERSION.
        inputs: Paths and URIs: pictures, folders of pictures, CSV, TSV, Parquet or JSON Lines files, folders of these, S3 prefixes.
        output: A path or URI that ends in .csv or .parquet: exactly one row for each input, in order.
        rows_per_part: Inputs of a part: what is repeated after a kill.
        fresh: Predict everything again, also what an interrupted call had done.

    Returns:
        The version that predicted, and how many inputs there were.

    Raises:
        InputError: what was asked for cannot be done as it is.
        AtelierError: it failed; the same call goes on where it stopped.
    """
    begin = time.monotonic()
    if not 1 <= rows_per_part <= 1_000_000 or not inputs:
        raise InvalidOptionError("batch-predict", ["give at least one input, and `rows_per_part` between 1 and 1,000,000"])
    check_output(output)
    times: list[StageTime] = []
    with open_context(fresh=fresh) as context, stage_context(context):
        version = Registry(context.settings, context.store).get(model)
        context.start_cluster()
        # Always "again": what is done lies in the workspace part by part, and the inputs are looked at anew.
        found: Predicted = run_stage(
            predict_stage, times, True, package=version.package, inputs=inputs, output=output, rows_per_part=rows_per_part
        )
        told = {"model": version.ref, "output": found.output, "inputs": found.num_inputs, "failed": found.num_failed}
        create_table_artifact(
            table=[told], key=artifact_key(version.name, "batch"), description=f"{version.ref}: {found.num_inputs:,} inputs"
        )
    return BatchResult(
        model=version.name,
        version=version.version,
        seconds=round(time.monotonic() - begin, 3),
        **found.model_dump(include={"output", "num_inputs", "num_failed", "num_done_before"}),
    )
