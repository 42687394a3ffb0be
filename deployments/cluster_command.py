"""``atelier cluster``: what would be asked of Slurm or Kubernetes, and certificates for a team."""

from __future__ import annotations

import json
from pathlib import Path

import click

from infra.clusters import KINDS, kind_of
from infra.settings import Settings, load_settings


@click.group()
def cluster() -> None:
    """Show what a cluster is made of; make certificates for one."""


@cluster.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(as_json: bool) -> None:
    """Print what ATELIER_CLUSTER means here: the job script, the manifest or the commands that would be run. Nothing is started."""
    settings = load_settings()
    kind = kind_of(settings.cluster)
    text = describe(settings)
    if as_json:
        click.echo(
            json.dumps({"kind": kind.name, "cluster": settings.cluster, "slots": [settings.min_slots, settings.slots], "text": text})
        )
        return
    click.echo(f"{settings.cluster}: {kind.meaning}", err=True)
    click.echo(text)


def describe(settings: Settings) -> str:
    """What would be asked of whoever starts the workers, as a text."""
    match kind_of(settings.cluster).name:
        case "slurm":
            from infra.clusters.slurm import job_script

            return job_script(settings).rstrip()
        case "kubernetes":
            import yaml

            from infra.clusters.kubernetes import manifest

            return str(yaml.safe_dump(manifest(settings, f"{settings.kubernetes.name}-0"), sort_keys=False)).rstrip()
        case "ssh":
            import shlex

            from infra.clusters.ssh import parse_hosts, ssh_command

            return "\n".join(shlex.join(ssh_command(host, settings.ssh)) for host in parse_hosts(settings.cluster))
        case _:
            return "\n".join(f"{kind.form}: {kind.meaning}" for kind in KINDS)


@cluster.command("certificates")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long the certificate is valid.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def certificates(folder: Path, days: int, as_json: bool) -> None:
    """Make a CA and a certificate for ATELIER_TLS in FOLDER; where a CA is already, a new certificate signed by it."""
    from infra.clusters.tls import CA_KEY, make_certificates

    written = make_certificates(folder, days=days)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "written": [str(path) for path in written]}))
        return
    for path in written:
        click.echo(path)
    click.echo(f"Copy all but {CA_KEY} to each machine, readable for its user only, and set ATELIER_TLS to the folder there.", err=True)
