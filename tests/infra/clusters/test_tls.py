"""Certificates: made, checked, and asked for by everything that Dask opens."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from flows.checks import check_request
from flows.request import RunRequest
from infra.cluster import num_slots, open_cluster
from infra.clusters.tls import make_certificates, make_pems, read_pems
from infra.errors import InvalidSettingError, ServiceError, StoreAccessError
from infra.settings import Settings
from infra.store import open_store


@pytest.fixture
def team(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "team")
    return tmp_path / "team"


def test_what_is_made_is_valid_and_keys_are_for_their_owner_only(team: Path) -> None:
    assert sorted(path.name for path in team.iterdir()) == ["ca-key.pem", "ca.pem", "cert.pem", "key.pem"]
    assert {stat.S_IMODE((team / name).stat().st_mode) for name in ("ca-key.pem", "key.pem")} == {0o600}
    assert set(read_pems(team)) == {"ca", "cert", "key"}


def test_a_second_call_renews_the_certificate_and_keeps_the_ca(team: Path) -> None:
    before = read_pems(team)
    assert [path.name for path in make_certificates(team)] == ["key.pem", "cert.pem"]
    after = read_pems(team)
    assert after["ca"] == before["ca"]
    assert after["cert"] != before["cert"]


def test_certificates_in_memory_are_new_each_time() -> None:
    assert make_pems()["ca"] != make_pems()["ca"]


def test_a_local_cluster_with_certificates_is_encrypted_and_takes_nobody_without(team: Path, tmp_path: Path) -> None:
    with open_cluster(Settings(workspace=str(tmp_path / "w"), slots=1, tls=team)) as client:
        assert client.scheduler is not None
        address = str(client.scheduler.address)
        assert address.startswith("tls://127.0.0.1:")
        assert client.submit(abs, -3, resources={"slot": 1}).result(timeout=60) == 3
        with open_cluster(Settings(workspace=str(tmp_path / "w"), cluster=address, tls=team)) as second:
            assert num_slots(second) == 1
        make_certificates(tmp_path / "strangers")
        for settings in (
            Settings(workspace=str(tmp_path / "w"), cluster=address, tls=tmp_path / "strangers"),
            Settings(workspace=str(tmp_path / "w"), cluster=address.replace("tls", "tcp")),
        ):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("infra.clusters.address.CONNECT_TIMEOUT_S", 1.0)
                with pytest.raises(ServiceError) as caught, open_cluster(settings):
                    raise AssertionError("it must not come in")
            print(caught.value)
            assert "\n" not in str(caught.value)


def _missing(folder: Path, other: Path) -> None:
    (folder / "key.pem").unlink()


def _garbage(folder: Path, other: Path) -> None:
    (folder / "cert.pem").write_text("no certificate")


def _other_ca(folder: Path, other: Path) -> None:
    shutil.copy(other / "ca.pem", folder)


def _other_key(folder: Path, other: Path) -> None:
    shutil.copy(other / "key.pem", folder)


def _expired(folder: Path, other: Path) -> None:
    make_certificates(folder, days=0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "atelier cluster certificates"),
        (_garbage, "no certificate or key in PEM"),
        (_other_ca, "was not signed by ca.pem"),
        (_other_key, "is not the key of cert.pem"),
        (_expired, "is valid from"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_told(spoil: object, words: str, team: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other")
    assert callable(spoil)
    spoil(team, tmp_path / "other")
    with pytest.raises(InvalidSettingError, match=words):
        read_pems(team)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreAccessError):
        make_certificates(tmp_path / "file" / "team")


@pytest.mark.parametrize(
    ("cluster", "more", "words"),
    [
        ("tcp://127.0.0.1:1", {"tls": True}, "write tls://"),
        ("tls://127.0.0.1:1", {}, "needs certificates"),
        ("tcp://127.0.0.1:1", {"min_slots": 1}, "not ours"),
        ("kubernetes", {}, "no image"),
        ("local", {"tls": Path("nowhere")}, "nowhere cannot be read"),
    ],
)
def test_settings_that_contradict_each_other_are_told(
    cluster: str, more: dict[str, object], words: str, team: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {**more, **({"tls": team} if more.get("tls") is True else {})}
    settings = Settings(workspace=str(tmp_path), cluster=cluster, **values)
    with pytest.raises(InvalidSettingError, match=words), open_cluster(settings):
        raise AssertionError("it must not start")
    request = RunRequest(algorithm="image-classification/small-cnn", data=str(tmp_path / "nowhere"))
    with pytest.raises(InvalidSettingError, match=words):  # and a run says so before it looks at its data
        check_request(request, settings, open_store(settings.workspace_uri))
