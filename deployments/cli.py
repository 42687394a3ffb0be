"""The command ``atelier``. Each command's module is imported when it is called, so that ``--help`` is instant."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import shutil
import signal
import sys
from typing import Any, NoReturn

import click

from deployments.option_names import as_typed, called_command, typed_names
from infra.errors import AtelierError

COMMANDS = {
    "run": "deployments.run_command:run",
    "algorithms": "deployments.algorithms_command:algorithms",
    "data": "deployments.data_commands:data",
    "models": "deployments.models_commands:models",
    "predict": "deployments.predict_command:predict",
    "cluster": "deployments.cluster_command:cluster",
    "batch-predict": "deployments.batch_command:batch_predict",
    "serve": "deployments.serve_command:serve",
    "canary": "deployments.canary_command:canary",
    "monitor": "deployments.monitor_command:monitor",
    "keys": "deployments.keys_command:keys",
    "clean-up": "deployments.clean_up_command:clean_up",
    "audit": "deployments.audit_command:audit",
    "up": "deployments.up_command:up",
    "deploy": "deployments.deploy_command:deploy",
    "doctor": "deployments.doctor:doctor",
}
SUMMARIES = {
    "run": "Turn labelled data into a proven, registered model.",
    "algorithms": "List the preset algorithms, or show one's options.",
    "data": "Import, list and show data sets.",
    "models": "List, show, compare, promote and move models.",
    "predict": "Predict with a registered model.",
    "cluster": "Show what a Dask cluster is made of; make certificates.",
    "batch-predict": "Predict any number of inputs on the cluster; goes on after a kill.",
    "serve": "Serve registered models over HTTP.",
    "canary": "Put a version on trial: promoted or rolled back by itself.",
    "monitor": "Compare what a model was asked with what it learned from.",
    "keys": "API keys of the inference server.",
    "clean-up": "Say what is old and unused, and remove it.",
    "audit": "Who did what in this workspace.",
    "up": "Start the local stack and keep it running.",
    "deploy": "Make flows Prefect deployments, on schedules and started by events.",
    "doctor": "Check this installation and say what is missing.",
}
INTERRUPTED = 130
LEAST_FREE = 256 << 10  # bytes; with less, a database cannot write


class LazyGroup(click.Group):
    """Knows its commands' names and summaries; imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in COMMANDS])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="atelier", prog_name="atelier")
def cli() -> None:
    """From labelled data to a proven, small, served model.

    Everything lives in the workspace: a folder (.atelier) or s3://bucket/prefix, set by ATELIER_WORKSPACE.
    Exit status: 0 done, 1 the run failed, 2 wrong usage or input, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors of ours become one message and an exit status, never a traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end: as by Ctrl-C
    try:
        status = cli.main(args=arguments, prog_name="atelier", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AtelierError as error:
        _fail(error, words)
    except (KeyboardInterrupt, click.Abort):
        again = shlex.join(word for word in words if word != "--fresh")  # which would begin anew
        click.echo(f"\nInterrupted. What was finished is kept; to go on where it stopped: atelier {again}", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output went away (`atelier ... | head`): not a failure of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        click.echo(f"Error: {error.strerror or error}: {error.filename or 'no file named'}", err=True)
        sys.exit(2 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM) else 1)
    except Exception as error:
        ours = _cause(error)
        if ours is None:
            raise  # a fault of the program: its traceback is what helps
        _fail(ours, words)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(error: AtelierError, words: list[str]) -> NoReturn:
    """Say what is wrong, in the words that were typed, and end."""
    told = as_typed(error, typed_names(called_command(cli, words)))
    click.echo(f"Error: {told}", err=True)
    sys.exit(error.exit_status)


def _cause(error: BaseException) -> AtelierError | None:
    """Our error behind one of a library's that came while it was handled, or a full disk, on which Prefect's database fails first."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, AtelierError):
        seen = seen.__cause__ or seen.__context__
    return seen or _full_disk()


def _full_disk() -> AtelierError | None:
    from infra.errors import StoreAccessError
    from infra.settings import load_settings

    folder = load_settings().state_dir
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(folder).free > LEAST_FREE:
        return None
    return StoreAccessError(
        str(folder), "the disk is full", "Free some room, then run the same command again: it goes on where it stopped."
    )


if __name__ == "__main__":
    main()
