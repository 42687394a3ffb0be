"""Makes Prefect deployments, their schedules and the automations of their triggers. ``python -m deployments.deploying`` makes them all."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from infra.prefect_server import quieten

quieten()

from prefect.automations import AutomationCore  # noqa: E402 - it sets up its logging when it is imported
from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate  # noqa: E402
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy  # noqa: E402
from prefect.deployments.runner import EntrypointType, RunnerDeployment  # noqa: E402
from prefect.events.actions import RunDeployment  # noqa: E402
from prefect.events.schemas.automations import EventTrigger  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.flows import Flow, load_flow_from_entrypoint  # noqa: E402
from prefect.schedules import Cron, Interval, Schedule  # noqa: E402
from prefect.utilities.schema_tools.validation import validate  # noqa: E402

from deployments.presets import Deployable, deployables  # noqa: E402
from deployments.stack.options import WORK_POOL  # noqa: E402
from deployments.triggering import load_triggers, remove_triggers, save_trigger  # noqa: E402
from deployments.triggers import DUE, PARAMETERS, Trigger  # noqa: E402
from infra.errors import InvalidOptionError  # noqa: E402
from infra.store import Store  # noqa: E402

TAG = "atelier"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ @-]{0,99}")


def parse_schedule(text: str) -> Schedule:
    """A cron line (``0 3 * * *``), or seconds or minutes or hours between runs (``900``, ``15m``, ``6h``).

    Raises:
        InvalidOptionError: it is neither.
    """
    factors = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in factors else (text, "s")
    try:
        seconds = float(number) * factors[unit]
    except ValueError:
        seconds = None
    try:
        if seconds is None:
            return Cron(text)
        if seconds < 1:
            raise ValueError("the least is a second")
        return Interval(timedelta(seconds=seconds))
    except ValueError as error:
        problem = f"{text!r}: expected a cron line such as '0 3 * * *', or a time between runs such as 15m or 6h ({error})"
        raise InvalidOptionError("--schedule", [problem]) from None


def make_pool(client: SyncPrefectClient, most_at_once: int | None = None) -> None:
    """The work pool, if it is not there; its limit, if one is asked for."""
    try:
        client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=WORK_POOL, type="process", description="Runs of Atelier, as processes.", concurrency_limit=most_at_once)
        )
        return
    if most_at_once is not None:
        client.update_work_pool(WORK_POOL, WorkPoolUpdate(concurrency_limit=most_at_once))


def check(
    one: Deployable, *, name: str, parameters: dict[str, Any] | None = None, schedule: str | None = None
) -> tuple[Flow[..., Any], Schedule | None]:
    """The deployment's flow and schedule; no server is asked.

    Raises:
        InvalidOptionError: a name that Prefect does not take, parameters that the flow does not have or whose values do not fit, or a
            schedule that is none.
    """
    if not _NAME.fullmatch(name):
        raise InvalidOptionError("--name", [f"{name!r}: allowed are letters, digits, '.', '_', ' ', '@' and '-', a letter or digit first"])
    flow: Flow[..., Any] = load_flow_from_entrypoint(one.entrypoint, use_placeholder_flow=False)
    known = flow.parameters.properties
    if unknown := sorted(set(parameters or {}) - set(known)):
        problems = [f"{key}: {one.name} has no such parameter" for key in unknown]
        raise InvalidOptionError("atelier deploy", problems, f"It has {', '.join(known)}.")
    # What is missing may still come with the run: an event's payload, the form.
    if wrong := validate(parameters or {}, flow.parameters.model_dump_for_openapi(), ignore_required=True):
        raise InvalidOptionError("atelier deploy", sorted(f"{error.json_path.removeprefix('$.')}: {error.message}" for error in wrong))
    return flow, parse_schedule(schedule) if schedule else None


def deploy(
    one: Deployable,
    *,
    name: str = "default",
    parameters: dict[str, Any] | None = None,
    schedule: str | None = None,
    tags: Sequence[str] = (),
) -> tuple[UUID, str]:
    """Make or update a deployment; its id and full name.

    Raises:
        InvalidOptionError: as ``check``.
    """
    flow, times = check(one, name=name, parameters=parameters, schedule=schedule)
    limit = one.most_at_once and ConcurrencyLimitConfig(limit=one.most_at_once, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    made = RunnerDeployment.from_flow(
        flow,
        name,
        parameters=parameters or {},
        schedule=times,
        concurrency_limit=limit or None,
        tags=[TAG, *one.tags, *tags],
        work_pool_name=WORK_POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    made.entrypoint = one.entrypoint
    number = made.apply(work_pool_name=WORK_POOL)
    assert isinstance(number, UUID)
    return number, made.full_name


def set_triggers(
    store: Store, deployment_id: UUID, full_name: str, wanted: Sequence[Trigger], schema: dict[str, Any], own: dict[str, Any]
) -> None:
    """Let exactly these events start the deployment; each becomes an automation that Prefect's pages show.

    Args:
        schema: of the flow's parameters.
        own: the deployment's own parameters.
    """
    parameters = {name: own.get(name, schema[name].get("default")) for name in PARAMETERS if name in schema}
    with get_client(sync_client=True) as client:
        for gone in remove_triggers_except(store, full_name, {trigger.key for trigger in wanted}):
            for automation in client.read_automations_by_name(gone.name):
                client.delete_automation(automation.id)
        for trigger in wanted:
            full = trigger.model_copy(update={"deployment": full_name, "deployment_id": str(deployment_id), "parameters": parameters})
            save_trigger(store, full.model_copy(update={"automation_id": str(_make_automation(client, full))}))


def remove_triggers_except(store: Store, full_name: str, kept: set[str]) -> list[Trigger]:
    """Take away the deployment's triggers that are no longer wanted."""
    if all(trigger.key in kept for trigger in load_triggers(store) if trigger.deployment == full_name):
        return []
    return remove_triggers(store, full_name)


def _make_automation(client: SyncPrefectClient, trigger: Trigger) -> UUID:
    for old in client.read_automations_by_name(trigger.name):
        client.delete_automation(old.id)
    values = {name: _from_payload(name) for name in trigger.parameters}
    return client.create_automation(
        AutomationCore(
            name=trigger.name,
            description=f"Runs {trigger.deployment} when {trigger.kind}:{trigger.resource} has been quiet for {trigger.quiet_s:g} s; many events, one run.",
            trigger=EventTrigger(
                expect={DUE}, match={"prefect.resource.id": f"atelier.trigger.{trigger.key}"}, threshold=1, within=timedelta(0)
            ),
            actions=[RunDeployment(source="selected", deployment_id=UUID(trigger.deployment_id), parameters=values, job_variables=None)],
        )
    )


def _from_payload(name: str) -> dict[str, Any]:
    """The parameter's value out of the event, of whatever type."""
    template = {"__prefect_kind": "jinja", "template": "{{ event.payload.parameters." + name + " | tojson }}"}
    return {"__prefect_kind": "json", "value": template}


def deploy_one(
    store: Store,
    one: Deployable,
    *,
    name: str,
    parameters: dict[str, Any],
    schedule: str | None,
    tags: Sequence[str],
    triggers: Sequence[Trigger],
    max_runs: int | None = None,
) -> tuple[str, str]:
    """A deployment with its triggers; its id and full name.

    Args:
        triggers: without a deployment yet.
        max_runs: of the whole work pool at once.
    """
    with get_client(sync_client=True) as client:
        make_pool(client, max_runs)
        identity, full_name = deploy(one, name=name, parameters=parameters, schedule=schedule, tags=tags)
        schema: dict[str, Any] = client.read_deployment(identity).parameter_openapi_schema or {}
    wanted = [trigger.model_copy(update={"deployment": full_name}) for trigger in triggers]
    set_triggers(store, identity, full_name, wanted, schema.get("properties", {}), parameters)
    return str(identity), full_name


def deploy_all(max_runs: int | None = None) -> int:
    """Every preset and flow, under the name ``default``; how many."""
    with get_client(sync_client=True) as client:
        make_pool(client, max_runs)
    found = deployables()
    for one in found:
        deploy(one)
    return len(found)


if __name__ == "__main__":
    print(f"{deploy_all()} deployments")
    sys.exit(0)
