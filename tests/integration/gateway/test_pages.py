"""The page of all routes, as a browser behind a firewall sees it."""

import re

from tests.integration.gateway.conftest import Call


def test_the_page_of_routes_needs_nothing_from_elsewhere(call: Call) -> None:
    page = call("/docs").content.decode()
    linked = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert any(link.endswith(".js") for link in linked)
    for link in linked:
        assert link.startswith("/"), link
        assert call(link).status == 200
    assert call("/redoc").status == 404


def test_every_route_but_those_for_probes_asks_for_a_key(call: Call) -> None:
    document = call("/openapi.json").json
    scheme = document["components"]["securitySchemes"]
    assert scheme["HTTPBearer"]["scheme"] == "bearer"
    open_to_all = {
        path
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if not operation.get("security")
    }
    assert open_to_all == {"/health", "/health/live", "/health/ready", "/metrics", "/ocr/health"}


def test_every_body_has_an_example(call: Call) -> None:
    document = call("/openapi.json").json
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                if kind == "application/json":
                    schema = body["schema"]
                    fields = schema.get("properties", {}).values()
                    assert body.get("examples") or any("examples" in field for field in fields), path
