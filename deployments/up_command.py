"""``atelier up``: the local stack."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where Prefect, MLflow and the inference server listen; another than loopback needs ATELIER_LOGIN and an API key (atelier keys).",
)
@click.option("--port-base", type=click.IntRange(1, 65_000), metavar="N", help="Take the ports N to N+4 instead of the usual ones.")
@click.option("--free-ports", is_flag=True, help="Take any free ports.")
@click.option("--max-runs", type=click.IntRange(1), default=4, show_default=True, help="Flow runs at once.")
@click.option(
    "--capture",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    metavar="SHARE",
    help="Keep this share of the served requests.",
)
@click.option("--deploy/--no-deploy", default=True, help="Make the deployments of all presets and flows.")
@click.pass_context
def up(ctx: click.Context, host: str, port_base: int | None, free_ports: bool, max_runs: int, capture: float, deploy: bool) -> None:
    """Start the local stack and keep it running until Ctrl-C.

    Prefect with its pages and a worker, a Dask cluster with its dashboard, MLflow's pages, the triggers and the inference server. A part
    that dies is started again. All of it listens on this machine only, unless --host says otherwise; Dask always does. With ATELIER_LOGIN set,
    Prefect and MLflow ask for it, also on this machine.
    """
    from deployments.local import up as run_stack
    from deployments.stack.options import UpOptions

    options = UpOptions(host=host, port_base=port_base, free_ports=free_ports, max_runs=max_runs, capture=capture, deploy=deploy)
    ctx.exit(run_stack(options, lambda line: click.echo(line)))
