"""``atelier audit``."""

from __future__ import annotations

import json
from datetime import datetime

import click


@click.command()
@click.option("--since", metavar="TIME", help="Only what happened then or later (ISO 8601, UTC).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def audit(since: str | None, as_json: bool) -> None:
    """Who did what in this workspace, and when: models, keys, clean-ups, deployments."""
    from infra.audit import read
    from infra.errors import InvalidOptionError
    from infra.settings import load_settings
    from infra.store import open_store

    try:
        moment = datetime.fromisoformat(since) if since else None
    except ValueError:
        raise InvalidOptionError("audit", [f"--since {since!r}: expected ISO 8601, such as 2026-11-20T16:30"]) from None
    settings = load_settings()
    entries = read(open_store(settings.workspace_uri), moment, settings.state_dir)
    if as_json:
        click.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2, ensure_ascii=False))
        return
    for entry in entries:
        details = " ".join(f"{key}={value}" for key, value in entry.details.items())
        click.echo(f"{entry.at[:19].replace('T', ' ')}  {entry.who:24} {entry.action:18} {entry.what:20} {details}".rstrip())
    if not entries:
        click.echo("Nothing has been written down yet.")
