"""``atelier models``: what is in the registry, what is live and why, and moving it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from infra.promotion import LogEvent
    from infra.registry import ModelVersion, Registry
    from tasks._card.comparison import Comparison, MetricRow

_LISTED = ("name", "version", "aliases", "algorithm", "metrics", "created")
_MAIN_METRICS = ("accuracy", "f1_macro", "auc", "rmse", "mae", "r2")
_as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_reason_option = click.option("--reason", default="", help="Why; it goes into the log.")


def _registry() -> Registry:
    from infra.registry import Registry
    from infra.settings import load_settings
    from infra.store import open_store

    settings = load_settings()
    return Registry(settings, open_store(settings.workspace_uri))


def _say(value: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        show()


def _listed(versions: list[ModelVersion]) -> list[dict[str, Any]]:
    return [version.model_dump(include=set(_LISTED)) for version in versions]


@click.group()
def models() -> None:
    """List, show, compare, promote and move models.

    A model is named NAME (its champion, or else its latest version), NAME@ALIAS or NAME/VERSION.
    """


@models.command("list")
@click.argument("name", required=False)
@_as_json_option
def list_models(name: str | None, as_json: bool) -> None:
    """Every version, or those of NAME."""
    from infra.errors import ModelNotFoundError
    from infra.settings import load_settings

    registry = _registry()
    versions = registry.versions(name)
    if name and not versions:
        raise ModelNotFoundError(name, sorted({version.name for version in registry.versions()}))
    empty = f"There are no models yet in the workspace {load_settings().workspace_uri}. `atelier run` makes one."
    _say(_listed(versions), as_json, lambda: _print_versions(versions, empty))


@models.command()
@click.option("--name", help="Part of the name, or a pattern with * and ?.")
@click.option("--tag", metavar="KEY[=VALUE]", help="A tag that is set, or has this value.")
@click.option("--metric", metavar="EXPRESSION", help="Comparisons such as accuracy>=0.9, several separated by commas.")
@click.option("--since", metavar="DATE", help="Made then or later (ISO 8601, UTC).")
@click.option("--until", metavar="DATE", help="Made then or earlier; a date means the end of that day.")
@_as_json_option
def search(name: str | None, tag: str | None, metric: str | None, since: str | None, until: str | None, as_json: bool) -> None:
    """Versions that satisfy every condition."""
    versions = _registry().search(name=name, tag=tag, metric=metric, since=since, until=until)
    _say(_listed(versions), as_json, lambda: _print_versions(versions, "No version satisfies these conditions."))


@models.command()
@click.argument("model")
@_as_json_option
def show(model: str, as_json: bool) -> None:
    """Everything about one version: metrics, inputs, labels, data, package."""
    registry = _registry()
    version = registry.get(model)
    folder = registry.package_folder(version)
    description = _description(folder)
    document = {**version.model_dump(), "package_folder": str(folder), "description": description}
    _say(document, as_json, lambda: _print_version(version, folder, description))


@models.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--html", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole comparison as one HTML page."
)
@_as_json_option
def compare(first: str, second: str, html: Path | None, as_json: bool) -> None:
    """Two versions side by side: metrics with their intervals; with --html also curves, data and options."""
    from infra.settings import load_settings
    from infra.store import open_store
    from tasks.compare import compare as compare_versions
    from tasks.compare import write_page

    registry = _registry()
    pair = [registry.get(first), registry.get(second)]
    comparison = compare_versions(*pair, store=open_store(load_settings().workspace_uri))
    if html is not None:
        write_page(comparison, html)
    document = {
        "first": _listed(pair)[0],
        "second": _listed(pair)[1],
        "same_test_split": comparison.same_test_split,
        "metrics": [_compared(row) for row in comparison.metrics],
        "num_paired": comparison.num_paired,
        "options": [fact.model_dump() for fact in comparison.options],
        "html": str(html.resolve()) if html else None,
    }
    _say(document, as_json, lambda: _print_comparison(pair, comparison, html))


def _compared(row: MetricRow) -> dict[str, Any]:
    """``metric``, ``first`` and ``second``; intervals, and that of the difference, where predictions of both allow it."""
    told = row.model_dump(mode="json", include={"first_interval", "second_interval", "difference_interval"}, exclude_none=True)
    return {"metric": row.name, "first": row.first, "second": row.second, **told}


@models.command()
@click.argument("model")
@click.option("--alias", default="champion", show_default=True, help="The alias that shall point at the version.")
@_reason_option
@_as_json_option
def promote(model: str, alias: str, reason: str, as_json: bool) -> None:
    """Make a version champion (or let another alias point at it). NAME alone means its challenger."""
    registry = _registry()
    ref = model if any(sign in model for sign in "@/") else f"{model}@challenger"
    before = registry.get(ref)
    version = registry.promote(before.name, before.version, alias, reason=reason)
    words = f"{version.ref} was {alias} already: nothing changed." if alias in before.aliases else f"{version.ref} is {alias}."
    _say(_listed([version])[0], as_json, lambda: click.echo(words))


@models.command()
@click.argument("name")
@_reason_option
@_as_json_option
def rollback(name: str, reason: str, as_json: bool) -> None:
    """Make the champion before the present one champion again."""
    version = _registry().rollback(name, reason=reason)
    _say(_listed([version])[0], as_json, lambda: click.echo(f"{version.ref} is champion again."))


@models.command("export")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--target",
    type=click.Choice(["registry", "edge"]),
    default="registry",
    show_default=True,
    help="registry: for `import` into another workspace; edge: a runner with it, that needs onnxruntime and numpy only.",
)
@_as_json_option
def export_model(model: str, file: Path | None, target: str, as_json: bool) -> None:
    """Write a version with its package into a zip FILE (by default NAME-VERSION.zip, NAME-VERSION-edge.zip)."""
    registry = _registry()
    version = registry.get(model)
    file = file or Path(f"{version.name}-{version.version}{'-edge' if target == 'edge' else ''}.zip")
    if target == "edge":
        from deployments.edge import write_bundle

        write_bundle(version, registry.package_folder(version), file)
    else:
        registry.export(version.ref, file)
    document = {"model": version.name, "version": version.version, "file": str(file.resolve()), "size": file.stat().st_size}
    _say(document, as_json, lambda: click.echo(f"{version.ref} is in {file} ({file.stat().st_size / 1e6:.1f} MB)."))


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Register it under this name instead of its own.")
@_as_json_option
def import_model(file: Path, name: str | None, as_json: bool) -> None:
    """Register what `export` wrote; it gets no alias."""
    version = _registry().import_(file, name=name)
    hint = f"`atelier models promote {version.ref}` makes it champion."
    _say(_listed([version])[0], as_json, lambda: click.echo(f"Imported as {version.ref}. {hint}"))


@models.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="Even if it is the champion.")
@_reason_option
@_as_json_option
def delete(model: str, force: bool, reason: str, as_json: bool) -> None:
    """Remove a version (NAME/VERSION) and its package; the log keeps that it was there."""
    from infra.errors import InvalidOptionError

    if "/" not in model:
        raise InvalidOptionError("delete", [f"{model!r}: say which version, as NAME/VERSION"], f"`atelier models list {model}` shows them.")
    registry = _registry()
    version = registry.get(model)
    registry.delete(version.name, version.version, force=force, reason=reason)
    _say({"deleted": version.ref}, as_json, lambda: click.echo(f"{version.ref} is deleted."))


@models.command()
@click.argument("name")
@click.option("--at", "moment", metavar="TIME", help="Only: which version was champion then (ISO 8601, UTC).")
@_as_json_option
def history(name: str, moment: str | None, as_json: bool) -> None:
    """The log of a model: which version was live when, and why."""
    from infra.errors import InvalidOptionError

    registry = _registry()
    if moment is None:
        events = registry.history(name)
        documents = [event.model_dump(exclude={"record"}) for event in events]
        _say(documents, as_json, lambda: _print_history(events))
        return
    try:
        when = datetime.fromisoformat(moment)
    except ValueError:
        raise InvalidOptionError("history", [f"--at {moment!r}: expected ISO 8601, such as 2026-11-20T16:30"]) from None
    version = registry.live_at(name, when)
    told = f"{name}/{version} was champion." if version is not None else f"{name} had no champion."
    _say({"name": name, "at": moment, "version": version}, as_json, lambda: click.echo(told))


# How it looks on a terminal


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "package.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _when(text: str) -> str:
    return text[:16].replace("T", " ")


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, style="bold" if index == 0 else None, overflow="fold")
    return table


def _print_table(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # a program that reads it cuts nothing
    console.print(table)


def _main_metrics(version: ModelVersion) -> str:
    main = [f"{name} {version.metrics[name]:.4g}" for name in _MAIN_METRICS if name in version.metrics][:2]
    return ", ".join(main)


def _print_versions(versions: list[ModelVersion], otherwise: str) -> None:
    if not versions:
        click.echo(otherwise)
        return
    table = _table("model", "alias", "algorithm", "metrics", "created (UTC)")
    for version in versions:
        table.add_row(version.ref, ", ".join(version.aliases), version.algorithm, _main_metrics(version), _when(version.created))
    _print_table(table)


def _card(version: ModelVersion) -> str:
    """Where the run card lies, as `atelier run` says it."""
    from infra.settings import load_settings
    from infra.store import open_store

    if not version.run_card:
        return ""
    store = open_store(load_settings().workspace_uri)
    path = store.local_path(version.run_card)
    return f"{path if path is not None else f'{store.uri}/{version.run_card}'}/index.html"


def _print_version(version: ModelVersion, folder: Path, description: dict[str, Any]) -> None:
    table = _table("", "")
    rows = {
        "model": f"{version.ref}  {' '.join(f'@{alias}' for alias in version.aliases)}".rstrip(),
        "algorithm": version.algorithm,
        "data": version.dataset,
        "created": f"{_when(version.created)} UTC",
        "labels": ", ".join(description.get("labels", [])[:40]),
        "inputs": ", ".join(description.get("inputs", {}).get("properties", {})),
        "preprocessing": str(description.get("preprocessing", {}).get("summary", "")),
        "tags": ", ".join(f"{key}={value}" for key, value in version.tags.items()),
        "package": str(folder),
        "run card": _card(version),
        "MLflow run": version.run_id,
        **{name: f"{value:.6g}" for name, value in version.metrics.items()},
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, value)
    _print_table(table)


def _print_comparison(pair: list[ModelVersion], comparison: Comparison, html: Path | None) -> None:
    from tasks._card.compare import verdict

    table = _table("metric", pair[0].ref, pair[1].ref, "difference")
    table.add_row("algorithm", pair[0].algorithm, pair[1].algorithm, "")
    table.add_row("created", _when(pair[0].created), _when(pair[1].created), "")
    for row in comparison.metrics:
        values = ("" if value is None else f"{value:.6g}" for value in (row.first, row.second))
        difference = f"{row.difference:+.4g}" if row.difference is not None else ""
        if row.difference_interval is not None:
            difference += f" ({row.difference_interval[0]:+.3g} to {row.difference_interval[1]:+.3g})"
        table.add_row(row.name, *values, difference)
    _print_table(table)
    if comparison.same_test_split:
        click.echo(f"\n{verdict(comparison)}")
    else:
        click.echo("\nThey were measured on different data, so the figures do not compare directly.")
    if html is not None:
        click.echo(f"page      {html.resolve()}")


def _print_history(events: list[LogEvent]) -> None:
    table = _table("when (UTC)", "what", "who", "why")
    for event in events:
        moved = f"{event.alias}: {event.before or 'none'} -> {event.after or 'none'}" if event.alias else f"{event.name}/{event.version}"
        table.add_row(event.at[:19].replace("T", " "), f"{event.operation} {moved}", event.who, event.reason)
    _print_table(table)
