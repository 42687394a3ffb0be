"""uv gets the index settings that pip has."""

from __future__ import annotations

import subprocess
import sys

from infra.with_uv import no_index, pip_settings, uv_variables

LISTING = """\
:env:.index-url='https://mirror.example/simple'
global.cert='/etc/ssl/ca.pem'
global.index-url='https://elsewhere.example/simple'
global.extra-index-url='https://one.example https://two.example'
install.find-links='/wheels'
wheel.find-links='/not-for-installing'
"""


def test_a_variable_goes_before_the_files() -> None:
    settings = pip_settings(LISTING)
    assert settings["index-url"] == "https://mirror.example/simple"
    assert settings["find-links"] == "/wheels"


def test_uv_is_told_what_pip_knows() -> None:
    told = uv_variables(pip_settings(LISTING), {}, locking=False)
    assert told["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert told["UV_INDEX"] == "https://one.example https://two.example"
    assert told["UV_FIND_LINKS"] == "/wheels"
    assert told["SSL_CERT_FILE"] == "/etc/ssl/ca.pem"
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_a_lock_depends_on_the_main_index_only() -> None:
    told = uv_variables(pip_settings(LISTING), {}, locking=True)
    assert told["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert not {"UV_INDEX", "UV_FIND_LINKS", "UV_INDEX_STRATEGY"} & set(told)


def test_uvs_own_variables_stay_as_they_are() -> None:
    told = uv_variables(pip_settings(LISTING), {"UV_INDEX_URL": "https://own.example", "UV_FIND_LINKS": "/own"}, locking=False)
    assert not {"UV_DEFAULT_INDEX", "UV_FIND_LINKS"} & set(told)


def test_a_machine_without_settings_needs_none() -> None:
    assert set(uv_variables({}, {}, locking=True)) == {"UV_HTTP_TIMEOUT"}


def test_no_index_is_understood() -> None:
    assert no_index({"no-index": "1"})
    assert not no_index({})


def test_uv_runs_with_the_arguments_as_given() -> None:
    done = subprocess.run([sys.executable, "-m", "infra.with_uv", "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("uv ")
