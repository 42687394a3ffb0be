"""``atelier monitor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tasks.monitor import Watched

_DRIFTED = 3


@click.command()
@click.argument("model")
@click.option("--hours", default=24.0, show_default=True, help="How far back to look.")
@click.option("--until", default="", metavar="TIME", help="End of that time (ISO 8601, UTC); default: now.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A bar, such as max_distance=0.2; docs/monitoring.md lists them.")
@click.option("--candidates", default=100, show_default=True, help="Most rows to put up for labelling; 0: none.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def monitor(ctx: click.Context, model: str, hours: float, until: str, pairs: tuple[str, ...], candidates: int, as_json: bool) -> None:
    """Compare what MODEL was asked (`atelier serve --capture`) with what it learned from.

    Exit status: 0 all is well, or too little was served to say anything; 3 it has drifted, or its quality dropped.
    """
    from infra.prefect_server import prefect_server
    from infra.settings import load_settings

    with prefect_server(load_settings()) as server:
        from flows.embedded import listening, starting_server
        from flows.monitor import make_bars
        from flows.monitor import monitor as flow
        from flows.progress import make_progress
        from flows.request import parse_options

        bars = parse_options(list(pairs))
        make_bars(bars)  # a wrong bar is answered before anything is started
        with make_progress() as progress, listening(progress.on_event), starting_server(server):
            found = flow(model, hours=hours, until=until, bars=bars, candidates=candidates)
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        _print(found)
    ctx.exit(_DRIFTED if found.verdict.drifted or found.verdict.quality_dropped else 0)


def _print(found: Watched) -> None:
    from infra.settings import load_settings
    from infra.store import open_store

    store = open_store(load_settings().workspace_uri)
    heads = ["drifted" if found.verdict.drifted else "no drift" if found.verdict.enough else "too few rows to say anything"]
    heads += ["quality dropped"] if found.verdict.quality_dropped else []
    click.echo(f"{found.model}/{found.version}: {', '.join(heads)}; {found.num_rows:,} served rows since {found.since}")
    for reason in found.verdict.reasons:
        click.echo(f"  {reason}")
    for what, artifact in (("report", found.report), ("to label", found.candidates)):
        if artifact is not None:
            click.echo(f"{what:10}{store.local_path(artifact.key) or f'{store.uri}/{artifact.key}'}")
