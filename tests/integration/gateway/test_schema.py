"""The OpenAPI document, held against a running gateway with real Redis and real llama.cpp behind it."""

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway


@pytest.fixture(scope="module")
def api(gateway: LocalGateway, shared_worker: LocalWorker) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(gateway.url + "/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_whatever_comes_is_answered_as_documented(case: schemathesis.Case) -> None:
    answer = case.call(timeout=120)
    case.validate_response(
        answer,
        checks=[
            schemathesis.checks.not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
