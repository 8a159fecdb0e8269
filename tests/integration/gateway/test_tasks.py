"""Any task over HTTP."""

import http.client
import json
import time
from typing import Any

from tests.integration.gateway.conftest import Answer, Call
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.scripted import LocalScripted

CHAT = {"messages": [{"role": "user", "content": "one two three four"}]}


def ended(call: Call, task_id: str, key: str = "") -> dict[str, Any]:
    give_up = time.monotonic() + 30
    while (found := call(f"/v1/tasks/{task_id}", key=key).json)["state"] not in {
        "SUCCESS", "FAILURE", "REVOKED"
    }:  # fmt: skip
        assert time.monotonic() < give_up
        time.sleep(0.05)
    return found


def events_of(answer: Answer) -> list[tuple[str, str, Any]]:
    """Id, type and data of each."""
    found = []
    for block in answer.content.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])))
    return found


def test_a_task_is_accepted_and_has_its_result(at_work: LocalWorker, call: Call) -> None:
    accepted = call("/v1/tasks/llm.chat?queue=interactive", CHAT)
    assert accepted.status == 202
    task = accepted.json
    assert task == {"id": task["id"], "task": "llm.chat", "queue": "interactive", "state": "PENDING"}
    assert accepted.headers["location"] == f"/v1/tasks/{task['id']}"
    found = ended(call, task["id"])
    assert found["state"] == "SUCCESS"
    assert found["result"]["choices"][0]["message"]["content"] == "one two three four"
    assert found["result"]["meta"]["timings"]["queue_s"] is not None
    assert found["error"] is None


def test_what_is_wrong_is_said_at_once_and_nothing_is_sent(at_work: LocalWorker, call: Call) -> None:
    refused = call("/v1/tasks/text.summarize", {"txt": "…"})
    assert refused.status == 400
    assert "`text` is missing" in refused.error["message"]
    assert refused.error["type"] == "invalid_request_error"
    unknown = call("/v1/tasks/text.summarise", {"text": "…"})
    assert unknown.status == 404
    assert "Did you mean 'text.summarize'?" in unknown.error["message"]
    assert call("/v1/tasks/llm.chat?queue=urgent", CHAT).error["param"] == "queue"
    for body, said in (
        (b"{", "not JSON"), (b"[]", "JSON object"), (b"\xff", "not UTF-8"), (b"[" * 100_000, "nested too deeply"),
    ):  # fmt: skip
        answer = call("/v1/tasks/llm.chat", body)
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")
        assert said in answer.error["message"]
    assert call("/v1/tasks/llm.chat", b"{}", content_type="text/plain").status == 415
    assert call("/v1/tasks/llm.chat", b"{}", content_encoding="gzip").status == 415
    assert call("/v1/tasks/llm.chat", {"messages": "x" * 300_000}).status == 413


def test_a_failed_task_says_why(at_work: LocalWorker, call: Call) -> None:
    task_id = call(
        "/v1/tasks/llm.extract", {"text": "x", "schema": {"type": "number"}, "max_repairs": 0}
    ).json["id"]
    found = ended(call, task_id)
    assert found["state"] == "FAILURE"
    assert found["error"]["type"] == "OutputInvalid"
    assert found["result"] is None


def test_events_are_the_stream_and_can_be_resumed(at_work: LocalWorker, call: Call) -> None:
    task_id = call("/v1/tasks/llm.chat", {**CHAT, "options": {"stream": True}}).json["id"]
    events = events_of(call(f"/v1/tasks/{task_id}/events"))
    assert [kind for _, kind, _ in events[:-1]] == ["chunk"] * (len(events) - 1)
    assert "".join(said["text"] for _, _, said in events) == "one two three four"
    _, kind, last = events[-1]
    assert (kind, last["state"]) == ("done", "SUCCESS")
    assert last["result"]["choices"][0]["message"]["content"] == "one two three four"
    rest = events_of(call(f"/v1/tasks/{task_id}/events", last_event_id=events[0][0]))
    assert rest == events[1:]
    assert call(f"/v1/tasks/{task_id}/events", last_event_id="yesterday").status == 400


def test_a_task_can_be_cancelled(at_work: LocalWorker, scripted: LocalScripted, call: Call) -> None:
    scripted.script({"fault": "hang"})
    long = {"messages": [{"role": "user", "content": "word " * 2000}]}
    task_id = call("/v1/tasks/llm.chat", long).json["id"]
    cancelled = call(f"/v1/tasks/{task_id}", method="DELETE").json
    assert cancelled["state"] == "REVOKED"
    assert cancelled["was"] in {"waiting", "running"}
    assert ended(call, task_id)["state"] == "REVOKED"
    assert call(f"/v1/tasks/{task_id}", method="DELETE").json["was"] == "REVOKED"
    assert events_of(call(f"/v1/tasks/{task_id}/events"))[-1][2]["state"] == "REVOKED"


def test_there_is_no_task_of_an_unknown_id(call: Call) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        answer = call(f"/v1/tasks/none{path}", method=method)
        assert (answer.status, answer.error["code"]) == (404, "not_found")


def test_every_answer_has_a_request_id_and_every_error_the_same_shape(call: Call) -> None:
    assert call("/health/live", x_request_id="mine").headers["x-request-id"] == "mine"
    assert len(call("/health/live", x_request_id="not usable").headers["x-request-id"]) == 36
    for path, method in (("/nowhere", "GET"), ("/health", "PUT"), ("/v1/batches/../../etc/passwd", "GET")):
        answer = call(path, method=method)
        assert answer.status in {404, 405}
        assert answer.error.keys() == {"message", "type", "param", "code"}


def test_health_and_capacity_say_what_there_is(at_work: LocalWorker, call: Call) -> None:
    give_up = time.monotonic() + 10
    while (health := call("/health")).status != 200 and time.monotonic() < give_up:
        time.sleep(0.1)
    assert health.status == 200
    assert {name: health.json[name]["status"] for name in ("redis", "workers", "models")} == dict.fromkeys(
        ("redis", "workers", "models"), "ok"
    )
    room = call("/v1/capacity").json
    assert room["accepting"]
    assert room["workers"] == 1
    assert room["slots"] > 0
    assert room["queues"]["interactive"]["accepting"]
    metrics = call("/metrics").content.decode()
    assert 'kc_gateway_requests_total{method="GET",route="/v1/capacity",status="200"}' in metrics


def test_a_slow_body_is_not_waited_for(open_gateway: Any) -> None:
    gateway: LocalGateway = open_gateway(GATEWAY_BODY_TIMEOUT_S="0.5")
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.putrequest("POST", "/v1/tasks/llm.chat")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "100")
    connection.endheaders()
    connection.send(b'{"messages"')
    answer = connection.getresponse()
    assert answer.status == 408
    assert json.loads(answer.read())["error"]["code"] == "timeout"
    connection.close()
