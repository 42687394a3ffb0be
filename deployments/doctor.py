"""``atelier doctor``: looks at this installation and says how to mend what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import click

from deployments import _checks
from deployments._checks import Check, guarded
from deployments._cluster_checks import check_cluster
from deployments._stack_checks import check_stack
from infra.errors import InvalidSettingError
from infra.settings import Settings, load_settings

__all__ = ["Check", "checks", "doctor"]

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def checks() -> list[Check]:
    """All findings, in the order in which a person reads them; two at a time, since most wait for a process of their own."""
    alone: dict[str, Callable[[], Check]] = {
        "Python": _checks.check_python,
        "compiler": _checks.check_compiler,
        "packages": _checks.check_lock,
        "Horovod": _checks.check_horovod,
        "torch": _checks.check_torch,
        "GPU": _checks.check_gpu,
        "memory": _checks.check_memory,
    }
    of_settings: dict[str, Callable[[Settings], Check]] = {
        "workspace": _checks.check_workspace,
        "registry": _checks.check_registry,
        "disk": _checks.check_disk,
        "cluster": check_cluster,
        "package key": _checks.check_package_key,
        "stack": check_stack,
    }
    todo = dict(alone)
    try:
        settings = load_settings()
        report = Check("settings", "ok", "read")
        todo |= {name: partial(check, settings) for name, check in of_settings.items()}
    except InvalidSettingError as error:
        rest = ", ".join(of_settings)
        report = Check("settings", "fail", str(error), f"Correct them; {rest} were not looked at.")
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [report, *pool.map(lambda item: guarded(*item), todo.items())]


def _show(found: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        table.add_row(Text(check.state, style=STYLES[check.state]), Text(check.name), Text(check.found))
        if check.mend:
            table.add_row("", "", Text(f"-> {check.mend}", style="italic"))
    console = Console(highlight=False)
    console.print(table)
    count = {state: sum(check.state == state for check in found) for state in STYLES}
    if count["fail"]:
        console.print(f"\n{count['fail']} of {len(found)} checks failed. More in docs/troubleshooting.md.")
    elif count["warn"]:
        console.print(f"\nEverything needed is there; {count['warn']} of {len(found)} checks have a remark.")
    else:
        console.print(f"\nAll {len(found)} checks are fine.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this installation and say what is missing, and how to mend it. Exit status 1 if a check failed."""
    found = checks()
    has_failed = any(check.state == "fail" for check in found)
    if as_json:
        click.echo(json.dumps({"ok": not has_failed, "checks": [asdict(check) for check in found]}, indent=2))
    else:
        _show(found)
    ctx.exit(1 if has_failed else 0)
