"""Messages name what was typed: the command line's options, not the parameters that they are given to."""

from __future__ import annotations

import importlib

import click

from deployments.cli import COMMANDS, cli
from deployments.option_names import as_typed, called_command, typed_names
from flows.request import RunRequest
from infra.errors import InvalidOptionError, ModelNotFoundError


def test_the_called_command_is_found_below_its_group() -> None:
    assert called_command(cli, ["run", "x", "--data", "run"]).name == "run"
    assert called_command(cli, ["models", "compare", "a", "b"]).name == "compare"
    assert called_command(cli, ["no-such-command"]) is cli


def test_parameters_become_options_at_the_beginning_and_in_backquotes() -> None:
    names = {"ratios": "--splits", "trials": "--trials"}
    error = InvalidOptionError(
        "the run", ["ratios: wrong `trials`; trials: as it is", "epochs: too many"], "Leave out `trials`, not `epochs`."
    )
    told = as_typed(error, names)
    assert told.args == (
        "the run",
        ["--splits: wrong --trials; trials: as it is", "epochs: too many"],
        "Leave out --trials, not `epochs`.",
    )
    other = ModelNotFoundError("trials: x", [])
    assert as_typed(other, names) is other


def test_every_parameter_of_a_run_has_an_option() -> None:
    names = typed_names(called_command(cli, ["run"]))
    assert set(RunRequest.model_fields) - set(names) == {"algorithm", "options"}  # an argument, and --set
    assert names["ratios"] == "--splits"
    assert names["objectives"] == "--objective"


def test_no_option_of_an_algorithm_is_taken_for_one_of_the_command() -> None:
    from algorithms.catalog import ALGORITHMS

    module, _, attribute = COMMANDS["run"].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert {name for one in ALGORITHMS for name in one.config_type.model_fields} & set(typed_names(command)) == set()
