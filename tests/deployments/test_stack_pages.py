"""The stack on PostgreSQL by one setting, where there is one; and Prefect's pages as people see them, in a browser."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import CHROMIUM, open_page
from tests.postgres import find_program
from tests.stack import Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PRESET = "tabular-classification:linear/default"


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest) -> str | None:
    """Of a PostgreSQL for this stack alone; None: this machine has none, and the stack keeps SQLite."""
    if find_program("initdb") is None or find_program("postgres") is None:
        return None
    url: str = request.getfixturevalue("postgres_url")
    return url.replace("/postgres", "/pages")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, database: str | None) -> Iterator[Stack]:
    workspace = tmp_path_factory.mktemp("pages") / "workspace"
    settings = {"ATELIER_DATABASE": database} if database else {}
    cache = str(tmp_path_factory.getbasetemp() / "atelier-cache")
    with running_stack(workspace, uuid.uuid4().hex, ATELIER_CACHE_DIR=cache, **settings) as found:
        yield found


@pytest.fixture(scope="module")
def finished(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Id of a preset's run that was started as the form does and has ended well."""
    table = tmp_path_factory.mktemp("table") / "points.csv"
    table.write_text("x,y,side\n" + "".join(f"{i % 17},{i % 5},{'left' if i % 17 < 8 else 'right'}\n" for i in range(200)))
    run = stack.start_run(PRESET, {"data": str(table), "target": "side", "name": "points"})
    stack.finish(run)
    return run


def test_flows_and_models_are_kept_in_postgresql(stack: Stack, database: str | None, finished: str) -> None:
    if database is None:
        pytest.skip("this machine has no PostgreSQL (initdb and postgres)")
    import pg8000.native

    def rows(name: str, query: str) -> list[list[object]]:
        port = int(re.findall(r":(\d+)/", database)[0])
        connection = pg8000.native.Connection("atelier", host="127.0.0.1", port=port, database=name)
        try:
            found: list[list[object]] = connection.run(query)
            return found
        finally:
            connection.close()

    assert [str(one) for (one,) in rows("pages_prefect", "SELECT id FROM flow_run WHERE parent_task_run_id IS NULL")] == [finished]
    assert rows("pages_mlflow", "SELECT name, version FROM model_versions") == [["points", 1]]
    assert not list(Path(stack.workspace).rglob("mlflow.db")), "MLflow kept its own database beside"
    assert "points/1" in stack.command("models", "list")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_form_of_a_preset_shows_its_described_options(stack: Stack, tmp_path: Path) -> None:
    number = stack.api(f"/deployments/name/{PRESET}")["id"]
    page = f"{stack.addresses['prefect']}/deployments/deployment/{number}/run"
    properties = stack.api(f"/deployments/{number}")["parameter_openapi_schema"]["properties"]
    shown = [properties[name]["title"] for name in ("data", "target")]
    shown += [properties[name]["description"].split("`")[0][:30] for name in ("data", "target")]
    shot = tmp_path / "form.png"
    with open_page(page, tmp_path) as form:
        text = form.wait_for(*shown)
        assert [one for one in shown if one not in text] == []
        form.shoot(shot)
    with Image.open(shot) as image:
        assert (image.convert("RGB").getcolors(maxcolors=1 << 20) or [])[50:], "the page is blank"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_what_a_run_found_is_shown(stack: Stack, finished: str, tmp_path: Path) -> None:
    artifacts = stack.api("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [finished]}}})
    assert {one["key"] for one in artifacts} >= {"points-data", "points-metrics", "points-result"}
    keys = [one["key"] for one in artifacts]
    with open_page(f"{stack.addresses['prefect']}/artifacts", tmp_path) as page:
        text = page.wait_for(*keys)
    assert [one for one in keys if one not in text] == []
