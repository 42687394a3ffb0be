"""``atelier serve``: registered models over HTTP."""

from __future__ import annotations

from typing import Any

import click
from pydantic import ValidationError


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL[@ALIAS]...")
@click.option("--port", type=int, default=8080, show_default=True, help="TCP port; 0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; another than loopback needs API keys (atelier keys).")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes that share the port.")
@click.option("--threads", type=int, default=None, help="Cores for one run of a large model; by default the cores divided by the workers.")
@click.option("--max-batch", type=int, default=16, show_default=True, help="Rows of different requests that share one run.")
@click.option("--max-delay-ms", type=float, default=2.0, show_default=True, help="Longest time a request waits for others to join it.")
@click.option("--max-body-mib", type=float, default=32.0, show_default=True, help="Largest body of a request.")
@click.option("--max-rows", type=int, default=1024, show_default=True, help="Rows in one request.")
@click.option("--max-megapixels", type=float, default=50.0, show_default=True, help="Largest picture.")
@click.option("--max-waiting", type=int, default=4096, show_default=True, help="Rows that may wait for a model; more are refused.")
@click.option("--poll-s", type=float, default=1.0, show_default=True, help="How often the registry is looked at.")
@click.option("--drain-s", type=float, default=1.0, show_default=True, help="How long a stopping server still takes requests.")
@click.option(
    "--capture", type=float, default=0.0, show_default=True, metavar="SHARE", help="Keep this share of the requests, for watching."
)
@click.option("--capture-s", type=float, default=10.0, show_default=True, help="How often what was captured is written.")
@click.option("--capture-pictures/--capture-statistics", default=True, help="Keep pictures themselves, or only their statistics.")
@click.pass_context
def serve(ctx: click.Context, models: tuple[str, ...], **options: Any) -> None:
    """Serve MODELs (NAME, NAME@ALIAS or NAME/VERSION) over HTTP: Open Inference Protocol v2, plain JSON, pictures.

    Of a NAME its champion is served, and followed: a version that is promoted takes over without a lost request. Of several references to
    one model the first answers requests that name no version. The page http://HOST:PORT/docs shows and tries everything.
    """
    from deployments.serving.options import ServeOptions
    from infra._registry_version import parse_ref
    from infra.errors import InvalidOptionError

    try:
        chosen = ServeOptions(models=list(models), **options)
    except ValidationError as error:
        problems = [f"--{str(one['loc'][0]).replace('_', '-')}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
        raise InvalidOptionError("atelier serve", problems) from None
    for model in models:
        parse_ref(model)
    from deployments.serving.supervise import serve as serve_models

    ctx.exit(serve_models(chosen))
