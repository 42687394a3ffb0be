"""Batch prediction: any number of pictures or rows through a package, part by part on the cluster; exactly one row comes out for each input.

    batches/<key>/<number>.parquet    what is done; the key is made of the package, the inputs' names and states, and the size of the parts

A part is written whole or not at all, so the same call after a kill does what is missing, and the output has the same bytes.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from infra._files import published_file
from infra.artifacts import Artifact, fetch
from infra.context import StageContext
from infra.datasets.sources import local_path, open_source
from infra.errors import ArtifactNotFoundError, AtelierError, InvalidOptionError, InvalidSourceError
from infra.keys import content_key
from infra.store import open_store
from tasks._batch_parts import Part, cut, list_inputs, read_rows
from tasks._fan_out import in_order

if TYPE_CHECKING:
    import pyarrow as pa

    from algorithms.package import Package

FORMAT = 2  # of the parts; raise it when the same inputs may give other rows
BATCH_PICTURES, BATCH_ROWS = 16, 256
MOST_PICTURE_BYTES = 256 << 20
RETRIES = 2
SUFFIXES = (".csv", ".parquet")


class Predicted(BaseModel):
    """A finished batch prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str = Field(description="Path or URI of the file.")
    num_inputs: int
    num_failed: int
    num_parts: int
    num_done_before: int = Field(description="Parts that an earlier call had done.")


def predict_batch(package: Artifact, inputs: Sequence[str], output: str, rows_per_part: int = 2048, *, context: StageContext) -> Predicted:
    """Predict every input and write one file.

    Args:
        package: of a registered version.
        inputs: paths and URIs: pictures, folders of pictures, tables, folders of tables.
        output: a path or URI that ends in ``.csv`` or ``.parquet``. Columns: ``input``; ``label``, ``confidence`` and ``score_CLASS``, or
            ``value``; ``error``, which is empty where there is a prediction.
        rows_per_part: inputs of a part: what a kill or a retry repeats.

    Raises:
        InvalidOptionError, SourceNotFoundError, InvalidSourceError: before anything is predicted.
        InvalidSourceError: the inputs changed meanwhile; nothing was written.
    """
    output = check_output(output)
    found = list_inputs(inputs, output)
    folder = fetch(context.store, package, context.settings.cache_path)
    model = _open(str(folder))
    parts = cut(found, model.is_image, rows_per_part)
    key = f"batches/{content_key({'format': FORMAT, 'package': package.digest, 'inputs': found, 'rows': rows_per_part})}"
    if context.fresh:
        context.store.delete(key)
    done = set(context.store.list(f"{key}/"))
    missing = [(_part_key(key, number), part) for number, part in enumerate(parts) if _part_key(key, number) not in done]
    calls = [(context.store.uri, package, context.settings.cache_path, part, place) for place, part in missing]
    for _ in in_order(context, _predict_part, calls, [part.num_rows for _, part in missing], phase="predict", retries=RETRIES):
        pass
    if list_inputs(inputs, output) != found:
        raise InvalidSourceError(
            ", ".join(inputs), ["it changed while it was read; nothing was written"], "Run it again when it is at rest."
        )
    keys = [_part_key(key, number) for number in range(len(parts))]
    num_rows, num_failed = _assemble(context, keys, model, output)
    assert num_rows == sum(part.num_rows for part in parts), "exactly one row for each input"
    return Predicted(
        output=output, num_inputs=num_rows, num_failed=num_failed, num_parts=len(parts), num_done_before=len(parts) - len(missing)
    )


def check_output(output: str) -> str:
    """The output as an absolute path or a URI.

    Raises:
        InvalidOptionError: another kind of file, or an address that cannot be written.
    """
    if not output.lower().endswith(SUFFIXES):
        raise InvalidOptionError("--output", [f"{output}: expected a name that ends in {' or '.join(SUFFIXES)}"])
    path = local_path(output)
    if path is not None:
        if path.is_dir():
            raise InvalidOptionError("--output", [f"{output} is a folder"])
        return str(path.absolute())
    open_source(output)
    return output


def _part_key(key: str, number: int) -> str:
    return f"{key}/{number:06d}.parquet"


@lru_cache(maxsize=2)
def _open(folder: str) -> Package:
    """One thread: a slot is one core, and sums in another order give other last digits."""
    from algorithms.package import Package

    return Package.load(folder, providers=["CPUExecutionProvider"], threads=1, verify=False)


def _predict_part(uri: str, package: Artifact, cache: Path, part: Part, place: str) -> None:
    """On a worker: predict one part and put its rows into the store."""
    import pyarrow.parquet as pq

    store = open_store(uri)
    model = _open(str(fetch(store, package, cache)))
    rows: dict[str, list[Any]] = {name: [] for name in _schema(model).names}
    for name, answer in _answers(model, part):
        scores = answer.get("scores", {})
        values = {
            "input": _text(name),
            "error": _text(answer["error"]) if "error" in answer else None,
            "value": answer.get("value"),
            "label": answer.get("label"),
        }
        values |= {"confidence": max(scores.values(), default=None)} | {f"score_{label}": score for label, score in scores.items()}
        for column, list_ in rows.items():
            list_.append(values.get(column))
    if len(rows["input"]) != part.num_rows:
        raise InvalidSourceError(
            part.names[0], [f"{len(rows['input'])} rows were read where {part.num_rows} had been: it changed meanwhile"]
        )
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows, schema=_schema(model)), sink, compression="zstd")
    store.write_bytes(place, sink.getvalue().to_pybytes())


def _text(text: str) -> str:
    """Names of files need not be UTF-8; in the output they are."""
    return text.encode("utf-8", "replace").decode()


def _schema(model: Package) -> pa.Schema:
    import pyarrow as pa

    if model.output == "value":
        told = [("value", pa.float32())]
    else:
        told = [("label", pa.string()), ("confidence", pa.float32()), *((f"score_{label}", pa.float32()) for label in model.labels)]
    return pa.schema([("input", pa.string()), *told, ("error", pa.string())])


def _answers(model: Package, part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and answer of each input, a batch in memory at a time."""
    from algorithms._package_tables import batched

    if model.is_image:
        named = ((name, _picture(part.store, key)) for key, name in zip(part.files, part.names, strict=True))
    else:
        named = ((f"{part.names[0]}:{number}", row) for number, row in enumerate(read_rows(part), start=part.first))
    for batch in batched(named, BATCH_PICTURES if model.is_image else BATCH_ROWS):
        good = iter(model.predict([value for _, value in batch if not isinstance(value, Exception)], batch_size=len(batch)))
        for name, value in batch:
            yield name, {"error": str(value)} if isinstance(value, Exception) else next(good)


def _picture(uri: str, key: str) -> Any:
    """A picture's bytes, or why there are none; a store that does not answer is no fault of the picture."""
    store = open_store(uri)
    try:
        if (size := store.size(key)) > MOST_PICTURE_BYTES:
            return ValueError(f"it has {size:,} bytes; at most {MOST_PICTURE_BYTES:,} are read")
        return store.read_bytes(key)
    except ArtifactNotFoundError:
        return ValueError("there is no such file")
    except AtelierError as error:
        if Path(uri).is_dir():  # a folder answers always: what cannot be read is this one file
            # The system's word alone: the store's whole sentence tells this machine's folders, and the output goes to other people.
            told = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
            return ValueError(f"it cannot be read: {told or 'the disk does not give its bytes'}")
        raise


def _assemble(context: StageContext, keys: Sequence[str], model: Package, output: str) -> tuple[int, int]:
    """All parts in one file, which appears whole; a part in memory at a time. Its rows, and how many have an error."""
    if local_path(output) is not None:
        with published_file(Path(output)) as target:
            return _write(context, keys, model, target, output)
    with tempfile.TemporaryDirectory(prefix="atelier-batch-") as scratch:
        path = Path(scratch) / "output"
        with path.open("xb") as target:
            counts = _write(context, keys, model, target, output)
        store, key = open_source(output)
        store.put_file(path, key)
        return counts


def _write(context: StageContext, keys: Sequence[str], model: Package, target: Any, output: str) -> tuple[int, int]:
    import pyarrow.parquet as pq

    schema = _schema(model)
    writer = pq.ParquetWriter(target, schema, compression="zstd") if output.lower().endswith(".parquet") else None
    if writer is None:
        _write_lines(target, [schema.names])
    num_rows = num_failed = 0
    for key in keys:
        table = pq.read_table(io.BytesIO(context.store.read_bytes(key)))
        num_rows += table.num_rows
        num_failed += table.num_rows - table.column("error").null_count
        if writer is not None:
            writer.write_table(table)
        else:
            _write_lines(target, zip(*(column.to_pylist() for column in table.columns), strict=True))
    if writer is not None:
        writer.close()
    return num_rows, num_failed


def _write_lines(target: Any, rows: Any) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    target.write(text.getvalue().encode("utf-8", "replace"))
