"""``atelier data``: import outside data, list the versions, show one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from infra.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import Console

    from infra.datasets.card import Card
    from infra.datasets.names import NameEntry

_MOST_BARS = 40


@click.group()
def data() -> None:
    """Import, list and show data sets.

    A version of a data set never changes: it is named by a digest of its content, and the same input gives the same version.
    """


@data.command("import")
@click.argument("source")
@click.option("--name", help="What to call it; by default the source's own name.")
@click.option("--target", metavar="COLUMN", help="Tables: the column to predict. The splits then have equal shares of its classes.")
@click.option("--regression", is_flag=True, help="The target is a number, not a class.")
@click.option(
    "--splits",
    default="70/15/15",
    show_default=True,
    metavar="TRAIN/VALID/TEST",
    help="Percentages, where the source has no splits of its own.",
)
@click.option("--split-seed", default=0, show_default=True, help="Another seed, other splits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_command(
    source: str, name: str | None, target: str | None, regression: bool, splits: str, split_seed: int, as_json: bool
) -> None:
    """Import SOURCE: a path, file:// or s3://.

    Pictures: a folder for each class, or train/, valid/ and test/ with those in them. Tables: CSV, TSV, Parquet, JSON Lines. Also zip and tar
    files of either.
    """
    from infra.datasets.importer import import_source
    from infra.datasets.sources import default_name

    if regression and not target:
        raise InvalidOptionError("atelier data import", ["--regression needs --target, the column to predict"])
    ratios = parse_splits(splits)
    store = _store()
    with _progress(quiet=as_json) as report:
        ref = import_source(
            store,
            source,
            name or default_name(source),
            target=target,
            regression=regression,
            ratios=ratios,
            split_seed=split_seed,
            report=report,
        )
    card = _card(ref.name)[0]
    if as_json:
        click.echo(json.dumps(summary(card), indent=2))
    else:
        rows = ", ".join(f"{split} {count:,}" for split, count in card.num_rows.items())
        ignored = (
            f" {card.source.num_ignored:,} files were ignored, `atelier data show {ref.name}` names them."
            if card.source.num_ignored
            else ""
        )
        click.echo(f"Imported {ref.name}: {rows} {_unit(card)}; version {card.digest[:12]}.{ignored}")


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_command(as_json: bool) -> None:
    """List all versions, the oldest first."""
    from infra.datasets.names import current, list_versions

    store = _store()
    cards = list_versions(store)
    if as_json:
        click.echo(json.dumps([summary(card) for card in cards], indent=2))
        return
    if not cards:
        click.echo("No data sets yet. `atelier data import SOURCE --name NAME` makes one.")
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    names = {entry.digest: name for name, entry in current(store).items()}
    table = Table("Name", "Version", "Kind", "Train", "Valid", "Test", "Size", "Made by", box=box.SIMPLE)
    for card in cards:
        rows = [f"{card.num_rows.get(split, 0):,}" for split in ("train", "valid", "test")]
        style = "" if card.digest in names else "dim"  # versions that no name means any more
        table.add_row(escape(card.name), card.digest[:12], card.kind, *rows, _size(card.num_bytes), card.lineage.operation, style=style)
    _console().print(table)


@data.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show_command(name: str, as_json: bool) -> None:
    """Show a version by its NAME, its digest, or 8 or more letters of that."""
    from infra.datasets.names import history

    card, ref_name = _card(name)
    entries = history(_store(), ref_name) if ref_name else []
    if as_json:
        click.echo(json.dumps({**card.model_dump(mode="json"), "history": [entry.model_dump() for entry in entries]}, indent=2))
    else:
        _show(_console(), card, entries)


def parse_splits(text: str) -> tuple[float, ...]:
    """``70/15/15`` or ``0.7/0.15/0.15`` as numbers.

    Raises:
        InvalidOptionError
    """
    from infra.datasets.splits import check_ratios

    try:
        parts = tuple(float(part) for part in text.replace(",", "/").split("/"))
    except ValueError:
        raise InvalidOptionError("--splits", [f"{text!r} is not three numbers"], "Such as 70/15/15: train, valid and test.") from None
    return check_ratios(parts)


def summary(card: Card) -> dict[str, Any]:
    """A version in a few words, as ``list --json`` prints it."""
    return {
        "name": card.name,
        "digest": card.digest,
        "kind": card.kind,
        "target": card.target,
        "classes": card.classes,
        "num_rows": card.num_rows,
        "num_bytes": card.num_bytes,
        "operation": card.lineage.operation,
        "parents": card.lineage.parents,
        "source": card.source.uri,
        "num_ignored": card.source.num_ignored,
        "imported_at": card.source.imported_at,
    }


def _store() -> Any:
    from infra.settings import load_settings
    from infra.store import open_store

    return open_store(load_settings().workspace_uri)


def _card(name: str) -> tuple[Card, str]:
    """The card of a name or digest, and the name if it is one."""
    from infra.datasets.dataset import open_dataset
    from infra.datasets.names import resolve
    from infra.settings import load_settings

    store = _store()
    ref = resolve(store, name)
    return open_dataset(store, ref, load_settings().cache_path).card, ref.name


def _console() -> Console:
    import sys

    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _unit(card: Card) -> str:
    return "pictures" if card.kind == "image" else "rows"


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 10 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def _show(console: Console, card: Card, entries: list[NameEntry]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    rule = dict(card.split_rule)
    rows = [
        ("Version", card.digest),
        ("Kind", card.kind + (f", to predict {card.target!r}" if card.target and card.kind == "table" else "")),
        ("Size", f"{sum(card.num_rows.values()):,} {_unit(card)}, {_size(card.num_bytes)} in {len(card.shards)} files"),
        ("Source", f"{card.source.uri} ({card.source.format})"),
        ("Imported", card.source.imported_at),
        ("Splits", _split_words(rule)),
        ("Lineage", _lineage_words(card)),
    ]
    if card.source.num_ignored:
        shown = ", ".join(card.source.ignored[:8])
        rows.append(
            ("Ignored", f"{card.source.num_ignored:,} files that are no samples: {shown}{', ...' if card.source.num_ignored > 8 else ''}")
        )
    if len(entries) > 1:
        rows.append(("History", ", ".join(f"{entry.digest[:12]} ({entry.at[:10]})" for entry in entries)))
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(f"[dim]{label}[/]", escape(value))
    console.print(f"[bold]{escape(card.name)}[/]")
    console.print(grid)
    features = Table("Column", "Type", "Missing", box=box.SIMPLE)
    for feature in card.features:
        features.add_row(escape(feature.name), feature.type, f"{feature.nulls:,}" if feature.nulls else "")
    console.print(features)
    console.print(_histogram(card))


def _split_words(rule: dict[str, Any]) -> str:
    by = f", by {rule['stratified_by']!r}" if rule.get("stratified_by") else ""
    drawn = f"{'/'.join(f'{100 * ratio:g}' for ratio in rule.get('ratios', []))} with seed {rule.get('seed')}{by}"
    if not rule.get("given"):
        return drawn
    made = rule.get("made")
    return f"given by the source; {' and '.join(made)} taken out of train ({drawn})" if made else "given by the source"


def _lineage_words(card: Card) -> str:
    lineage = card.lineage
    if not lineage.parents:
        return lineage.operation
    details = ", ".join(f"{key}: {value}" for key, value in lineage.details.items() if isinstance(value, (str, int, float)))
    return f"{lineage.operation} of {', '.join(parent[:12] for parent in lineage.parents)}" + (f" ({details})" if details else "")


def _histogram(card: Card) -> Any:
    """A bar for each class, its length by the number of all samples, its parts by split."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("Class" if card.classes else "", *(split.capitalize() for split in card.num_rows), "All", "", box=box.SIMPLE)
    keys = card.classes or [""]
    totals = {key: sum(counts.get(key, 0) for counts in card.counts.values()) for key in keys}
    longest = max(totals.values(), default=1) or 1
    for key in keys[:_MOST_BARS]:
        counts = [counts.get(key, 0) for counts in card.counts.values()]
        parts = [round(30 * count / longest) for count in counts]
        parts[0] = max(parts[0], 1 if totals[key] else 0)
        bar = "".join(f"[{style}]{'█' * part}[/]" for part, style in zip(parts, ("cyan", "yellow", "magenta"), strict=True))
        table.add_row(escape(key) or "all", *(f"{count:,}" for count in counts), f"{totals[key]:,}", bar)
    if len(keys) > _MOST_BARS:
        table.add_row(f"and {len(keys) - _MOST_BARS} more", *[""] * (len(card.num_rows) + 2))
    return table


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows events on standard error: a bar on a terminal, only the messages elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(event: dict[str, Any]) -> None:
            if event["kind"] == "log":
                console.print(event["message"], markup=False, soft_wrap=True)
            elif event["kind"] == "progress":
                phase = event["phase"]
                if phase not in tasks:
                    tasks[phase] = bars.add_task(phase, total=event["steps"])
                bars.update(tasks[phase], completed=event["step"], total=event["steps"])

        yield show
