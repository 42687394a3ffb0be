"""``atelier algorithms``: what there is to choose from, and every option of it."""

from __future__ import annotations

import json
from typing import Any

import click


def option_rows(config_type: Any, defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Every option of a config: name, type, default, range and meaning, from its JSON schema."""
    schema = config_type.model_json_schema()
    required = set(schema.get("required", []))
    rows = []
    for name, field in schema["properties"].items():
        rows.append(
            {
                "name": name,
                "type": _type_of(field),
                "default": "required" if name in required and name not in defaults else defaults.get(name, field.get("default")),
                "range": _range_of(field),
                "meaning": field.get("description", ""),
            }
        )
    return rows


def _type_of(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type_of(part) for part in field["anyOf"])
    if "enum" in field:
        return "choice"
    if field.get("type") == "array":
        return f"list of {_type_of(field.get('items', {}))}"
    return {"null": "none"}.get(str(field.get("type", "any")), str(field.get("type", "any")))


def _range_of(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return next((text for part in field["anyOf"] if (text := _range_of(part))), "")
    if "enum" in field:
        return ", ".join(str(value) for value in field["enum"])
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    if low is None and high is None:
        return str(field.get("pattern", ""))
    left = "" if low is None else (f"> {low}" if "exclusiveMinimum" in field else f">= {low}")
    right = "" if high is None else (f"< {high}" if "exclusiveMaximum" in field else f"<= {high}")
    return ", ".join(part for part in (left, right) if part)


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def algorithms(ctx: click.Context, as_json: bool) -> None:
    """List the preset algorithms, or show one's options."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_algorithms, as_json=as_json)


@algorithms.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_algorithms(as_json: bool) -> None:
    """Every preset, with its task, size and what it suits."""
    from algorithms.catalog import list_algorithms as list_known

    known, broken = list_known()
    for error in broken:
        click.echo(f"Warning: {error}", err=True)
    if as_json:
        rows = [{"name": a.name, "task": a.task, "size": a.size, "summary": a.summary, "suits": a.suits} for a in known]
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("algorithm", style="bold", no_wrap=True)
    table.add_column("size")
    table.add_column("suits")
    task = ""
    for algorithm in known:
        if task and algorithm.task != task:
            table.add_row()
        task = algorithm.task
        table.add_row(algorithm.name, algorithm.size, algorithm.suits)
    Console(highlight=False).print(table)
    click.echo("\natelier algorithms show NAME lists every option.")


@algorithms.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show_algorithm(name: str, as_json: bool) -> None:
    """Every option of one preset: default, range and meaning; give them to `atelier run` with --set."""
    from algorithms.catalog import find_algorithm
    from algorithms.search_space import in_words

    algorithm = find_algorithm(name)
    rows = option_rows(algorithm.config_type, dict(algorithm.defaults))
    if as_json:
        document = {"name": algorithm.name, "task": algorithm.task, "size": algorithm.size, "summary": algorithm.summary}
        space = {option: found.model_dump(mode="json") for option, found in algorithm.search_space.items()}
        click.echo(json.dumps({**document, "suits": algorithm.suits, "options": rows, "search_space": space}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{algorithm.name}[/]  {algorithm.size}\n{algorithm.summary} {algorithm.suits}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("option", "default", "range", "meaning"):
        table.add_column(title, no_wrap=title == "option", style="bold" if title == "option" else "")
    for row in rows:
        default = row["default"] if isinstance(row["default"], str) else json.dumps(row["default"])
        table.add_row(row["name"], default or '""', row["range"] or row["type"], row["meaning"])
    console.print(table)
    if algorithm.search_space:
        click.echo("\nTuning searches")
        for option, found in algorithm.search_space.items():
            click.echo(f"  {option}  {in_words(found)}")
    target = " --set target=COLUMN" if any(row["default"] == "required" for row in rows) else ""
    click.echo(f"\natelier run {algorithm.name} --data PATH{target} --set OPTION=VALUE")
