"""``atelier doctor`` on this installation, and on ones that are broken on purpose."""

from __future__ import annotations

import base64
import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock
from pydantic import SecretStr

from deployments import _checks
from deployments._cluster_checks import check_cluster
from deployments._stack_checks import check_stack
from deployments.doctor import checks, doctor
from deployments.stack.addresses import addresses_file, lock_file, write_addresses
from infra.cluster_settings import KubernetesSettings, SshSettings
from infra.clusters.tls import make_certificates
from infra.errors import StoreUnavailableError
from infra.settings import Settings


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The JSON document of one run of the doctor here, with a fresh workspace."""
    with pytest.MonkeyPatch.context() as patch:
        from infra.settings import load_settings

        patch.setenv("ATELIER_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))
        load_settings.cache_clear()
        answer = CliRunner().invoke(doctor, ["--json"])
        load_settings.cache_clear()
    value: dict[str, object] = json.loads(answer.stdout)
    value["status"] = answer.exit_code
    return value


def _named(document: dict[str, object], name: str) -> dict[str, str]:
    found = document["checks"]
    assert isinstance(found, list)
    return next(check for check in found if check["name"] == name)


def test_this_installation_passes_and_the_status_says_so(document: dict[str, object]) -> None:
    assert document["ok"] is True
    assert document["status"] == 0


def test_every_part_is_looked_at(document: dict[str, object]) -> None:
    found = document["checks"]
    assert isinstance(found, list)
    names = {check["name"] for check in found}
    assert names == {
        "settings", "Python", "compiler", "packages", "Horovod", "torch", "GPU", "memory", "workspace", "registry", "disk", "cluster",
        "package key", "stack",
    }  # fmt: skip
    assert all(check["state"] in {"ok", "warn", "fail"} and check["found"] for check in found)


def test_what_is_not_ok_says_how_to_mend_it(document: dict[str, object]) -> None:
    found = document["checks"]
    assert isinstance(found, list)
    assert all(check["mend"] for check in found if check["state"] != "ok")


@pytest.mark.skipif(os.environ.get("ATELIER_WITHOUT_HOROVOD") == "1", reason="ATELIER_WITHOUT_HOROVOD=1: Horovod was left out")
def test_horovod_is_built_for_torch_with_gloo(document: dict[str, object]) -> None:
    horovod = _named(document, "Horovod")
    assert horovod["state"] == "ok"
    assert "frameworks: torch; controllers: gloo" in horovod["found"]


def test_the_doctor_leaves_nothing_in_the_workspace(workspace: Path) -> None:
    check = _checks.check_workspace(Settings(workspace=str(workspace)))
    assert check.state == "ok"
    assert [path for path in workspace.rglob("*") if path.is_file()] == []


def test_a_workspace_that_cannot_be_made_is_a_failed_check(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    check = _checks.check_workspace(Settings(workspace=str(file / "workspace")))
    assert check.state == "fail"
    assert "ATELIER_WORKSPACE" in check.mend


def test_wrong_settings_are_a_failed_check_and_the_rest_is_still_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.settings import load_settings

    monkeypatch.setattr(_checks, "probe", lambda name: {"error": "not asked in this test"})
    monkeypatch.setenv("ATELIER_SLOTS", "-1")
    load_settings.cache_clear()
    found = {check.name: check for check in checks()}
    load_settings.cache_clear()
    assert found["settings"].state == "fail"
    assert "slots" in found["settings"].found
    assert found["Python"].state == "ok"
    assert "workspace" not in found


def test_a_failed_check_gives_status_1_and_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _checks.Check("packages", "fail", "numpy missing", "make setup")
    monkeypatch.setattr("deployments.doctor.checks", lambda: [broken])
    answer = CliRunner().invoke(doctor, [])
    assert answer.exit_code == 1
    assert "numpy missing" in answer.output
    assert "make setup" in answer.output


def test_a_lock_that_differs_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text(
        "numpy==0.0.1 \\\n    --hash=sha256:00\nno-such-thing==1.0 ; sys_platform == 'linux' \\\n    --hash=sha256:00\n"
        "only-elsewhere==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    )
    monkeypatch.setattr(_checks, "_root", lambda: tmp_path)
    check = _checks.check_lock()
    assert check.state == "fail"
    assert "instead of 0.0.1" in check.found
    assert "no-such-thing missing" in check.found
    assert "only-elsewhere" not in check.found


def test_a_missing_compiler_names_the_package_that_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = _checks.check_compiler()
    assert check.state == "warn"
    assert "apt-get install g++ make" in check.mend


def test_an_error_of_ours_becomes_a_failed_check() -> None:
    def unreachable() -> _checks.Check:
        raise StoreUnavailableError("s3://bucket/prefix", "connection refused")

    check = _checks.guarded("workspace", unreachable)
    assert (check.name, check.state) == ("workspace", "fail")
    assert "connection refused" in check.found


def test_a_probe_that_fails_tells_its_last_line() -> None:
    assert "KeyError" in _checks.probe("no-such-probe")["error"]


def test_more_slots_than_cores_is_a_remark() -> None:
    check = check_cluster(Settings(slots=1024))
    assert check.state == "warn"
    assert "ATELIER_SLOTS" in check.mend


def test_a_cluster_that_does_not_answer_is_a_failed_check(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr("infra.clusters.address.CONNECT_TIMEOUT_S", 1.0)
    settings = Settings(cluster=f"tcp://127.0.0.1:{free_port}")
    check = _checks.guarded("cluster", lambda: check_cluster(settings))
    assert check.state == "fail"
    assert "ATELIER_CLUSTER" in check.found


def test_a_registry_that_does_not_answer_is_a_failed_check(free_port: int) -> None:
    check = _checks.check_registry(Settings(registry=f"http://127.0.0.1:{free_port}"))
    assert check.state == "fail"
    assert "ATELIER_REGISTRY" in check.mend


@pytest.mark.parametrize("cluster", ["slurm", "ssh://host-a", "kubernetes"])
def test_a_cluster_whose_programs_are_missing_is_a_failed_check(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    settings = Settings(workspace=str(tmp_path), cluster=cluster, kubernetes=KubernetesSettings(image="example/atelier:1"))
    check = _checks.guarded("cluster", lambda: check_cluster(settings))
    assert check.state == "fail"
    assert check.mend


def test_hosts_that_answer_and_hosts_that_do_not_are_told_apart(tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\n[ "$2" = good ] && exec sh -c "$3"\necho "no route to $2" >&2; exit 255\n'
    )
    program.chmod(0o755)
    own = SshSettings(program=(str(program),))
    good = check_cluster(Settings(workspace=str(tmp_path), cluster="ssh://good", ssh=own))
    assert (good.state, good.mend) == ("ok", "")
    bad = check_cluster(Settings(workspace=str(tmp_path), cluster="ssh://good,bad", ssh=own))
    assert bad.state == "fail"
    assert "bad: no route to bad" in bad.found


def test_certificates_that_end_soon_are_a_remark(tmp_path: Path) -> None:
    make_certificates(tmp_path / "team", days=3)
    check = check_cluster(Settings(workspace=str(tmp_path), slots=1, tls=tmp_path / "team"))
    assert check.state == "warn"
    assert "atelier cluster certificates" in check.mend


def test_a_package_key_that_is_none_is_a_failed_check_that_does_not_tell_it() -> None:
    check = _checks.check_package_key(Settings(package_key=SecretStr("no-key-at-all")))
    assert check.state == "fail"
    assert "32 bytes as base64" in check.found
    assert "urandom" in check.mend
    assert "no-key-at-all" not in f"{check}"
    assert _checks.check_package_key(Settings()).state == "ok"
    assert _checks.check_package_key(Settings(package_key=SecretStr(base64.b64encode(b"k" * 32).decode()))).state == "ok"


def test_a_stack_is_told_as_it_is(tmp_path: Path, free_port: int) -> None:
    settings = Settings(workspace=str(tmp_path))
    assert "none runs" in check_stack(settings).found
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        nowhere = f"http://127.0.0.1:{free_port}"
        with FileLock(lock_file(settings)):
            assert "starts or stops" in check_stack(settings).found
            write_addresses(settings, {"cluster": there, "serving": f"{nowhere}/docs"}, {"api": "http://192.0.2.1:4200/api"})
            good = check_stack(settings)
            assert (good.state, there in good.found, "waits for the first champion" in good.found) == ("ok", True, True)
            write_addresses(settings, {"cluster": there, "api": f"{nowhere}/api"}, {})
            bad = check_stack(settings)
            assert (bad.state, f"api at {nowhere}/api" in bad.found, there in bad.found) == ("fail", True, False)
            assert bad.mend
        stale = check_stack(settings)
        assert (stale.state, "stale" in stale.found) == ("warn", True)
        assert str(addresses_file(settings)) in stale.mend
