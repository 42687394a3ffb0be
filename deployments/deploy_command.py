"""``atelier deploy``: presets and flows as Prefect deployments, on schedules and started by events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import click


@click.command()
@click.argument("flow", required=False, default="")
@click.option("--name", default="default", show_default=True, help="The deployment's name: FLOW/NAME in Prefect's pages.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of its runs; may be given several times.")
@click.option("--schedule", metavar="CRON|INTERVAL", help="Run it at these times: '0 3 * * *', 15m, 6h.")
@click.option(
    "--trigger",
    "triggers",
    multiple=True,
    metavar="KIND:NAME",
    help="Run it on an event: dataset:NAME, files:FOLDER, drift:MODEL, quality:MODEL, registered:MODEL, challenger:MODEL, promoted:MODEL.",
)
@click.option("--quiet-s", type=click.FloatRange(0), default=5.0, show_default=True, help="Events of so many quiet seconds make one run.")
@click.option("--tag", "tags", multiple=True, help="A tag of its runs.")
@click.option("--max-runs", type=click.IntRange(1), help="Most runs of the whole work pool at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def deploy(
    flow: str,
    name: str,
    pairs: tuple[str, ...],
    schedule: str | None,
    triggers: tuple[str, ...],
    quiet_s: float,
    tags: tuple[str, ...],
    max_runs: int | None,
    as_json: bool,
) -> None:
    """Make FLOW (a preset, or pipeline, retrain, canary, ...) a Prefect deployment; without FLOW all of them, under the name default.

    The server is that of PREFECT_API_URL, or of `atelier up`. Given again, the deployment is changed; its triggers are those of this call.

    \b
    atelier deploy retrain --name digits --set model=digits --trigger files:/data/new --trigger drift:digits
    atelier deploy tabular-classification/lightgbm --name nightly --set data=s3://bucket/day --set target=label --schedule '0 3 * * *'
    """
    from deployments.presets import find_deployable
    from deployments.triggers import parse_trigger
    from flows.request import parse_options
    from infra.access import prefect_client_variables
    from infra.audit import write_down
    from infra.errors import InvalidOptionError
    from infra.settings import load_settings
    from infra.store import open_store

    if not flow and (pairs or schedule or triggers or tags):
        raise InvalidOptionError(
            "atelier deploy", ["--set, --schedule, --trigger and --tag need a FLOW"], "For example: atelier deploy retrain ..."
        )
    one = find_deployable(flow) if flow else None
    wanted = [parse_trigger(text, quiet_s=quiet_s) for text in triggers]
    parameters = parse_options(list(pairs))
    from deployments.deploying import check, deploy_all, deploy_one

    if one is not None:  # what is wrong without any server is said before one is looked for
        check(one, name=name, parameters=parameters, schedule=schedule)
    settings = load_settings()
    store = open_store(settings.workspace_uri)
    os.environ["PREFECT_API_URL"] = url = find_server()
    known = os.environ.get("PREFECT_API_AUTH_STRING") or prefect_client_variables(settings).get("PREFECT_API_AUTH_STRING")
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    # The variable is for the processes that come, and the setting for this one, which has imported Prefect.
    with temporary_settings({PREFECT_API_URL: url} | ({PREFECT_API_AUTH_STRING: known} if known else {})), _answering(url):
        if one is None:
            number = deploy_all(max_runs)
            write_down(store, "deploy", "all presets and flows", deployments=number)
            click.echo(json.dumps({"deployments": number}) if as_json else f"{number} deployments")
            return
        identity, full_name = deploy_one(
            store, one, name=name, parameters=parameters, schedule=schedule, tags=tags, triggers=wanted, max_runs=max_runs
        )
    # The names of the parameters only: a value may be a secret.
    write_down(store, "deploy", full_name, parameters=sorted(parameters), schedule=schedule, triggers=list(triggers))
    found = {"deployment": full_name, "id": identity, "schedule": schedule, "triggers": list(triggers)}
    click.echo(json.dumps(found) if as_json else f"{full_name} ({identity})")


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Says which server does not answer, or does not let us in.

    Raises:
        InvalidOptionError
    """
    from httpx import HTTPStatusError, TransportError

    from infra.errors import InvalidOptionError

    try:
        yield
    except TransportError as error:
        problem, hint = f"the Prefect server at {url} does not answer ({error})", "Start one with `atelier up`, or correct PREFECT_API_URL."
    except HTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        problem, hint = f"the Prefect server at {url} does not take our login", "Set ATELIER_LOGIN as it was when the server was started."
    else:
        return
    raise InvalidOptionError("atelier deploy", [problem], hint)


def find_server() -> str:
    """The Prefect API: the configured one, or that of the stack that runs on this workspace.

    Raises:
        InvalidOptionError: there is none.
    """
    from deployments.stack.addresses import read_addresses
    from infra.errors import InvalidOptionError
    from infra.prefect_server import configured_url
    from infra.settings import load_settings

    if url := configured_url():
        return url
    if address := read_addresses(load_settings()).get("api"):
        return address
    raise InvalidOptionError(
        "atelier deploy", ["there is no Prefect server"], "Start one with `atelier up`, or name yours with PREFECT_API_URL."
    )
