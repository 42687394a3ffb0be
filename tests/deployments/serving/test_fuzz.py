"""Whatever the OpenAPI page allows and does not allow: the server never fails, and says why it refuses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.deployments.serving.conftest import Running

EXAMPLES = 12
# Each example looks at the registry or at every metric, which is all the same to the server's robustness.
SLOW = {"POST /admin/refresh", "GET /metrics"}


def test_generated_requests_never_make_the_server_fail(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: Counter[str] = Counter()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), f"an operation that is none: {result}"
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            examples = 2 if operation.label in SLOW else EXAMPLES

            @hypothesis_settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                answer = case.call(timeout=60)
                seen[f"{case.operation.label} {answer.status_code}"] += 1
                assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"
                if answer.status_code >= 400 and case.path != "/" and "docs" not in case.path:
                    assert answer.json()["error"], "no reason"

            try:
                ask()
            except Unsatisfiable:  # nothing about this operation can be wrong
                assert mode is GenerationMode.NEGATIVE
    assert {"POST /v2/models/{name}/infer 404", "GET /v2/health/ready 200"} <= set(seen)
    assert server.ask("/v2/health/ready").status == 200
    assert server.process.poll() is None
