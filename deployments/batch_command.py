"""``atelier batch-predict``: the flow that predicts any number of inputs on the cluster."""

from __future__ import annotations

import json

import click

_SOME_FAILED, _ALL_FAILED = 1, 2


@click.command("batch-predict")
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--output", required=True, metavar="FILE|URI", help="Where the rows go: a name that ends in .csv or .parquet.")
@click.option("--rows-per-part", type=click.IntRange(1, 1_000_000), default=2048, show_default=True, help="What a kill repeats at most.")
@click.option("--fresh", is_flag=True, help="Predict everything again, also what an interrupted call had done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def batch_predict(
    ctx: click.Context, model: str, inputs: tuple[str, ...], output: str, rows_per_part: int, fresh: bool, as_json: bool
) -> None:
    """Predict with MODEL (NAME, NAME@ALIAS or NAME/VERSION) on the Dask cluster: any number of inputs, in bounded memory.

    INPUT is a picture, a folder of pictures, a CSV, TSV, Parquet or JSON Lines file, a folder of these, or an s3:// prefix. The output has
    exactly one row for each input, in order; what cannot be predicted says why in the column `error`. Killed, the same command goes on.

    Exit status: 0 every input was predicted, 1 some were not, 2 none was.
    """
    from infra.prefect_server import prefect_server
    from infra.settings import load_settings

    with prefect_server(load_settings()) as server:
        from flows.embedded import listening, starting_server
        from flows.predict import batch_predict as flow
        from flows.progress import make_progress

        with make_progress() as progress, listening(progress.on_event), starting_server(server):
            result = flow(model, list(inputs), output, rows_per_part, fresh)
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        failed = f", {result.num_failed:,} could not be predicted" if result.num_failed else ""
        inputs_ = "input" if result.num_inputs == 1 else "inputs"
        click.echo(f"{result.model}/{result.version}: {result.num_inputs:,} {inputs_}{failed}; {result.output} ({result.seconds:.1f} s)")
    ctx.exit(0 if not result.num_failed else _ALL_FAILED if result.num_failed == result.num_inputs else _SOME_FAILED)
