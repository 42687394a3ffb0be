"""``atelier canary``: a version on trial with a growing share of the requests, promoted or rolled back by itself."""

from __future__ import annotations

import json
import os
from typing import Any

import click


@click.command()
@click.argument("model")
@click.option(
    "--server", "servers", multiple=True, default=("http://127.0.0.1:8080",), show_default=True, help="URL of a server; several allowed."
)
@click.option("--steps", default="1,10,50,100", show_default=True, help="Shares of the requests, per cent.")
@click.option("--min-requests", type=int, default=100, show_default=True, help="Requests that it must answer in each step.")
@click.option("--min-feedback", type=int, default=0, show_default=True, help="True answers that must have come before it is promoted.")
@click.option("--significance", type=float, default=0.01, show_default=True, help="Chance to send back one that is as good.")
@click.option("--latency-factor", type=float, default=1.5, show_default=True, help="How much slower it may be.")
@click.option(
    "--max-shift", type=float, default=0.2, show_default=True, help="How far its predictions may lie from the live version's, 0 to 1."
)
@click.option("--max-accuracy-loss", type=float, default=0.0, show_default=True, help="Accuracy that it may lose.")
@click.option("--look-s", type=float, default=5.0, show_default=True, help="Seconds between looks.")
@click.option(
    "--step-s", type=float, default=3600.0, show_default=True, help="Longest time of a step; too few requests until then: rolled back."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def canary(
    ctx: click.Context, model: str, servers: tuple[str, ...], steps: str, look_s: float, step_s: float, as_json: bool, **bars: Any
) -> None:
    """Put MODEL (NAME: its challenger; or NAME@ALIAS, NAME/VERSION) on trial beside the champion.

    Servers give it a growing share of the requests. Errors, latency, predictions and, where true answers come, accuracy are compared; it is
    promoted at the end or rolled back as soon as a test speaks against it, and the registry's log says why. ATELIER_API_KEY is the servers' key.

    Exit status: 0 promoted, 1 rolled back.
    """
    from pydantic import ValidationError

    from deployments.serving.canary import Judge, fetch_metrics
    from deployments.serving.verdict import Bars
    from infra.errors import InvalidOptionError
    from infra.registry import CHALLENGER, Registry
    from infra.settings import load_settings
    from infra.store import open_store

    settings = load_settings()
    store = open_store(settings.workspace_uri)
    registry = Registry(settings, store)
    try:
        shares = [float(step) for step in steps.split(",")]
        held_to = Bars(**bars)
    except ValidationError as error:
        problems = [f"--{str(one['loc'][0]).replace('_', '-')}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
        raise InvalidOptionError("atelier canary", problems) from None
    except ValueError:
        raise InvalidOptionError("atelier canary", [f"--steps {steps}: expected numbers with commas, such as 1,10,50,100"]) from None
    candidate = registry.get(model if "@" in model or "/" in model else f"{model}@{CHALLENGER}")
    key = os.environ.get("ATELIER_API_KEY", "")
    judge = Judge(
        registry,
        store,
        lambda: [fetch_metrics(url, key) for url in servers],
        bars=held_to,
        steps=shares,
        look_s=look_s,
        step_s=step_s,
        say=lambda text: click.echo(text, err=True),
    )
    outcome = judge.run(candidate.name, candidate.version)
    click.echo(json.dumps(outcome.model_dump(), indent=2) if as_json else f"{candidate.ref} {outcome.outcome}: {outcome.reason}")
    ctx.exit(0 if outcome.outcome == "promoted" else 1)
