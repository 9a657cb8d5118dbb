"""Requests made up from the OpenAPI document, fitting and not: no server error, whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from nextscale.server.app import create_app
from nextscale.server.local import LocalBackend
from nextscale.server.settings import ServerSettings
from talk import served
from toys import make_pipeline

pytestmark = pytest.mark.slow
MODES = list(schemathesis.GenerationMode)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A toy model behind uvicorn, in a thread."""
    app = create_app(LocalBackend(make_pipeline(), "toy"), ServerSettings(model="toy", max_body=100_000))
    with served(app) as address:
        yield address


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_no_request_makes_an_error_of_the_server(url: str, path: str, mode: schemathesis.GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses = set()

    @given(case=schema[path]["POST"].as_strategy(mode))
    @settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def send(case: schemathesis.Case) -> None:
        answer = case.call(base_url=url, timeout=30)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert "\n" not in answer.json()["error"]["message"]

    send()
    assert statuses <= {200, 400, 404, 405, 413}
    health = httpx.get(f"{url}/healthz").json()
    assert health["status"] == "ok" and health["pending"] == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"prompt": "red", "seed": 1e400}', b'{"prompt": "\\ud800"}', b"null",
     b'{"prompt": "red\\u0000"}', b'{"prompt": "red", "n": NaN}'],
)  # fmt: skip
def test_bodies_that_are_no_requests(url: str, body: bytes) -> None:
    answer = httpx.post(f"{url}/v1/images/generations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2f", "/nothing", "/v1/images"])
def test_paths_that_are_not_there(url: str, path: str) -> None:
    assert httpx.get(f"{url}{path}").status_code == 404
