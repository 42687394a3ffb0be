"""``atelier keys``: API keys of the inference server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from infra.store import Store

_as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _store() -> Store:
    from infra.settings import load_settings
    from infra.store import open_store

    return open_store(load_settings().workspace_uri)


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of `atelier serve`. Only their digests are kept."""


@keys.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["predict", "admin"]), default="predict", show_default=True, help="What it allows.")
@_as_json_option
def create(name: str, role: str, as_json: bool) -> None:
    """A new key for NAME, who stands in the audit log. It is shown once, now."""
    from deployments.serving.keys import create_key

    key = create_key(_store(), name, role)  # type: ignore[arg-type]
    click.echo(json.dumps({"name": name, "role": role, "key": key}, indent=2) if as_json else key)


@keys.command("list")
@_as_json_option
def list_keys(as_json: bool) -> None:
    """Who has a key, with which role, since when."""
    from deployments.serving.keys import read_keys

    found = [key.model_dump(include={"name", "role", "created"}) for key in read_keys(_store())]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("There are no keys; servers listen on loopback only, and answer everybody there.")
    else:
        for key in found:
            click.echo(f"{key['name']:24} {key['role']:8} {key['created']}")


@keys.command()
@click.argument("name")
@_as_json_option
def revoke(name: str, as_json: bool) -> None:
    """Servers refuse the key of NAME from their next look on."""
    from deployments.serving.keys import revoke_key

    revoke_key(_store(), name)
    click.echo(json.dumps({"revoked": name}) if as_json else f"revoked {name}")
