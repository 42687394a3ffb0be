"""``atelier clean-up``."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from flows.clean_up import CleanedUp


@click.command("clean-up")
@click.option("--older-than", default="30d", show_default=True, metavar="AGE", help="A number with m, h, d or w; at least 1h.")
@click.option(
    "--keep", default=10, show_default=True, type=click.IntRange(min=0), help="The newest of each kind stay however old they are."
)
@click.option("--yes", "really", is_flag=True, help="Remove it. Without this, only what would go is told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def clean_up(ctx: click.Context, older_than: str, keep: int, really: bool, as_json: bool) -> None:
    """Old runs, checkpoints, data set versions, studies, captures, reports, logs, results of stages, and rows of Prefect and MLflow.

    Models with all they point at, data that a name means now, the registry's log and the audit log always stay.
    """
    from infra.prefect_server import prefect_server
    from infra.settings import load_settings
    from tasks._retention import parse_age

    parse_age(older_than)  # a wrong one is answered before anything is started
    with prefect_server(load_settings()) as server:
        from flows.clean_up import clean_up as flow
        from flows.embedded import starting_server

        with starting_server(server):
            result = flow(older_than=older_than, keep=keep, really=really)
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        _print(result)
    ctx.exit(1 if result.problems else 0)


def _print(result: CleanedUp) -> None:
    counts, sizes = Counter(item.kind for item in result.items), Counter[str]()
    for item in result.items:
        sizes[item.kind] += item.num_bytes
    for kind, number in sorted(counts.items()):
        click.echo(f"{kind:14}{number:8,}{sizes[kind] / 1e6:12,.1f} MB")
    click.echo(f"{'removed' if result.done else 'would go':14}{len(result.items):8,}{result.num_bytes / 1e6:12,.1f} MB")
    for reason, number in result.kept.items():
        click.echo(f"stay          {number:8,}  {reason}")
    for problem in result.problems:
        click.echo(f"problem: {problem}")
    if not result.done and result.items:
        click.echo("Nothing was removed; --yes removes it.")
