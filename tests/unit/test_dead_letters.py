"""A dead letter is readable, whatever was in the queue."""

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.dead_letters import DeadLetter


def entry(raw: bytes, **different: Any) -> bytes:
    """As `bury` keeps it: the message's bytes inside a JSON string, as they are."""
    kept = {
        "queue": "default\x06\x163", "raw": raw.decode("utf-8", "surrogateescape"), "reason": "Because.",
        "since": 1_800_000_000_000, "deaths": 2, "tries": 3, "notes": {}, **different,
    }  # fmt: skip
    return json.dumps(kept, ensure_ascii=False).encode("utf-8", "surrogateescape")


def message(body: Any, **headers: Any) -> bytes:
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    return json.dumps(
        {"body": encoded, "headers": headers, "properties": {"body_encoding": "base64"}}
    ).encode()


def test_a_task_is_shown_by_name_with_its_arguments_and_history() -> None:
    notes = [
        json.dumps({"at": 1_800_000_000_000, "event": "put off", "for_s": 2}),
        {"event": "rejected"},
        "?",
        7,
    ]
    raw = message([["one"], {"text": "hello"}, {}], task="text.summarize")
    found = DeadLetter.of("some-id", entry(raw, notes=notes))
    assert (found.id, found.task, found.queue) == ("some-id", "text.summarize", "default")
    assert (found.since, found.reason, found.deaths, found.tries) == (
        "2027-01-15T08:00:00+00:00",
        "Because.",
        2,
        3,
    )
    assert found.arguments == {"args": ["one"], "kwargs": {"text": "hello"}}
    assert found.history == [
        {"at": "2027-01-15T08:00:00+00:00", "event": "put off", "for_s": 2},
        {"event": "rejected"},
        {"event": "?"},
        {"event": "7"},
    ]


def test_a_task_of_celerys_first_protocol_has_everything_in_its_body() -> None:
    found = DeadLetter.of("x", entry(message({"task": "t", "args": [1], "kwargs": {"a": 2}})))
    assert (found.task, found.arguments) == ("t", {"args": [1], "kwargs": {"a": 2}})


def test_a_body_that_cannot_be_read_still_has_its_tasks_name() -> None:
    raw = json.dumps(
        {"body": "%%%", "headers": {"task": "t"}, "properties": {"body_encoding": "base64"}}
    ).encode()
    found = DeadLetter.of("x", entry(raw))
    assert (found.task, found.arguments) == ("t", None)


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["body", "headers", "properties", "task", "body_encoding", "args"]), inner
    )).map(lambda document: json.dumps(document).encode())
)  # fmt: skip
def test_no_message_is_too_strange_to_be_shown(raw: bytes) -> None:
    found = DeadLetter.of("x", entry(raw))
    assert found.message == raw.decode("utf-8", "replace")
    json.dumps(found.arguments)
