"""``atelier predict``: a registered model on files, folders, tables or JSON lines, with onnxruntime alone."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from algorithms.package import Package

_SOME_FAILED, _ALL_FAILED = 1, 2
_SHOWN = 200


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: a list with input, label and scores, or value, or error.")
@click.option("--top", type=click.IntRange(min=1), default=None, metavar="K", help="Only the K most probable classes.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the predictions to a .json, .jsonl or .csv file.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads; by default all cores.")
@click.pass_context
def predict(
    ctx: click.Context, model: str, inputs: tuple[str, ...], as_json: bool, top: int | None, output: Path | None, threads: int | None
) -> None:
    """Predict with MODEL (NAME, NAME@ALIAS or NAME/VERSION; of a NAME its champion).

    INPUT is a picture, a folder of pictures, a CSV, JSON Lines or Parquet file, or - for JSON lines on standard input
    (a row a line; for pictures {"image": PATH}).

    Exit status: 0 every input was predicted, 1 some were not, 2 none was.
    """
    from algorithms.package import Package
    from infra.errors import InvalidOptionError
    from infra.registry import Registry
    from infra.settings import load_settings
    from infra.store import open_store

    if output is not None and output.suffix.lower() not in _WRITERS:
        raise InvalidOptionError("--output", [f"{output}: expected a name that ends in {', '.join(_WRITERS)}"])
    settings = load_settings()
    registry = Registry(settings, open_store(settings.workspace_uri))
    version = registry.get(model)
    package = Package.load(registry.package_folder(version), threads=threads, verify=False)  # the registry has just verified it
    results = list(_cut(predict_inputs(package, inputs), top))
    if output is not None:
        _write(output, results)
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        _print(results, f"{version.ref}{''.join(f' @{alias}' for alias in version.aliases)}", output)
    num_failed = sum("error" in result for result in results)
    ctx.exit(0 if not num_failed and results else _ALL_FAILED if num_failed == len(results) else _SOME_FAILED)


def predict_inputs(package: Package, inputs: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Predictions of everything that was named on the command line, in order."""
    for text in inputs:
        if text == "-":
            yield from _stdin(package)
            continue
        if not text.strip():
            yield {"input": text, "error": "this is no path: the argument is empty (a variable that is not set?)"}
            continue
        path = Path(text)
        if not path.is_dir():
            yield from _of_file(package, path, text)
        elif files := _files_of(path, package.is_image):
            yield from package.iter_predict(files)
        else:
            yield {
                "input": text,
                "error": f"there are no {'pictures' if package.is_image else 'CSV, JSON Lines or Parquet files'} in this folder",
            }


def _of_file(package: Package, path: Path, text: str) -> Iterator[dict[str, Any]]:
    """Predictions of one file; one that holds nothing, or a table where a picture is wanted, says so."""
    from algorithms._package_tables import TABLE_SUFFIXES

    if package.is_image and path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
        yield {"input": text, "error": "this model takes pictures, not tables"}
        return
    results = package.iter_predict([text])
    first = next(results, None)
    if first is not None:
        yield first
        yield from results
    else:
        yield {"input": text, "error": "there are no rows in it"}


def _files_of(folder: Path, pictures: bool) -> list[Path]:
    from algorithms._package_images import IMAGE_SUFFIXES
    from algorithms._package_tables import TABLE_SUFFIXES

    wanted = IMAGE_SUFFIXES if pictures else TABLE_SUFFIXES
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in wanted
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)  # hidden folders: a workspace is one
    )


def _stdin(package: Package) -> Iterator[dict[str, Any]]:
    """Predictions of JSON lines, batch by batch; a line that is no row is an error of its own."""
    from algorithms._package_tables import batched

    for batch in batched(enumerate(sys.stdin, start=1), 64):
        lines = [(number, line) for number, line in batch if line.strip()]
        parsed = [_parse(line, package.is_image) for _, line in lines]
        found = package.iter_predict([value for value, error in parsed if not error])
        for (number, _), (_, error) in zip(lines, parsed, strict=True):
            yield {"input": f"-:{number}", "error": error} if error else {**next(found), "input": f"-:{number}"}


def _parse(line: str, is_image: bool) -> tuple[Any, str]:
    """The row or path of a line, or why it is none."""
    try:
        value = json.loads(line)
    except ValueError as error:
        return None, f"not JSON: {error}"
    if not isinstance(value, dict):
        return None, f"expected a JSON object, got {type(value).__name__}"
    if not is_image:
        return value, ""
    path = value.get("image")
    return (path, "") if isinstance(path, str) else (None, 'expected {"image": PATH}')


def _cut(results: Iterator[dict[str, Any]], top: int | None) -> Iterator[dict[str, Any]]:
    for result in results:
        if top is not None and "scores" in result:
            best = sorted(result["scores"].items(), key=lambda pair: -pair[1])[:top]
            result = {**result, "scores": dict(best)}
        yield result


def _print(results: list[dict[str, Any]], model: str, output: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("input", overflow="fold")
    table.add_column("prediction", style="bold", overflow="fold")
    table.add_column("probability" if any("scores" in result for result in results) else "")
    for result in results[:_SHOWN]:
        if "error" in result:
            table.add_row(escape(str(result["input"])), f"[red]{escape(result['error'])}[/red]", "")
        elif "value" in result:
            table.add_row(escape(str(result["input"])), f"{result['value']:.6g}", "")
        else:
            best = sorted(result["scores"].items(), key=lambda pair: -pair[1])[:3]
            table.add_row(
                escape(str(result["input"])), escape(result["label"]), escape("  ".join(f"{name} {score:.3f}" for name, score in best))
            )
    console = Console(highlight=False)
    console.print(table)
    num_failed = sum("error" in result for result in results)
    more = f"  ({len(results) - _SHOWN:,} more; --output or --json for all)" if len(results) > _SHOWN else ""
    failed = f", {num_failed:,} could not be predicted" if num_failed else ""
    told = f"{len(results):,} {'input' if len(results) == 1 else 'inputs'}{failed}{more}"
    console.print(f"\n{model}: {told}" + (f"; written to {output}" if output else ""), style="dim")


def _write(path: Path, results: list[dict[str, Any]]) -> None:
    """Write the file atomically."""
    from infra.errors import StoreAccessError

    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(_WRITERS[path.suffix.lower()](results), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StoreAccessError(str(path), error.strerror or str(error), "Choose a place that can be written.") from error


def _as_json(results: list[dict[str, Any]]) -> str:
    return json.dumps(results, indent=2, ensure_ascii=False) + "\n"


def _as_lines(results: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)


def _as_csv(results: list[dict[str, Any]]) -> str:
    """One line an input; the probability of each class in a column ``score_CLASS``."""
    classes = list(dict.fromkeys(name for result in results for name in result.get("scores", {})))
    answer = "value" if any("value" in result for result in results) else "label"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", answer, *(f"score_{name}" for name in classes), "error"])
    for result in results:
        scores = result.get("scores", {})
        writer.writerow([result["input"], result.get(answer, ""), *(scores.get(name, "") for name in classes), result.get("error", "")])
    return text.getvalue()


_WRITERS = {".json": _as_json, ".jsonl": _as_lines, ".csv": _as_csv}
