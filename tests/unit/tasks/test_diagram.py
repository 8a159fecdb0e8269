"""`diagram.describe` against a model that says what is written here."""

import asyncio
import base64
import io
import json
import threading
import time
from dataclasses import replace

import pypdfium2
import pytest
from PIL import Image

from worker.diagrams import formats, table
from worker.errors import (
    BackendRejected,
    BackendUnavailable,
    InputTooLarge,
    InputUnavailable,
    InvalidTask,
    OutputInvalid,
)
from worker.tasks.diagram import _leaving

STEPS = [
    {"number": 1, "action": "Open", "role": "Clerk", "kind": "task", "next": [{"to": 2, "condition": ""}]},
    {"number": 2, "action": "Good?", "role": "", "kind": "decision", "next": [{"to": 1, "condition": "no"}, {"to": 9, "condition": ""}]},
]  # fmt: skip
ANSWER = json.dumps({"steps": STEPS})
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><text y="20">Open the mail</text></svg>'
)


def given(data: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(data).decode()}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def pdf(pages: int = 2) -> bytes:
    document, buffer = pypdfium2.PdfDocument.new(), io.BytesIO()
    for number in range(pages):
        document.new_page(200 + number, 100)
    document.save(buffer)
    return buffer.getvalue()


async def rows(run_task):
    return await run_task.drawings.recent("", 100)


async def test_a_picture_is_steps_a_table_and_diagrams(run_task, scripted) -> None:
    backend = scripted([ANSWER])
    result = await run_task(
        backend, "diagram.describe", image=given(png()), file_name="mail.png", formats=["mermaid", "bpmn"]
    )
    assert result["description"].splitlines() == [
        "| № | Action | Role |", "| --- | --- | --- |", "| 1 | Open | Clerk |", "| 2 | Good? (no → 1) |  |",
    ]  # fmt: skip
    assert [step["next"] for step in result["steps"]] == [
        [{"to": 2, "condition": ""}],
        [{"to": 1, "condition": "no"}],
    ]
    assert set(result["diagrams"]) == {"mermaid", "bpmn"}
    assert formats.read(result["diagrams"]["bpmn"].encode()).as_json() == result["steps"]
    metadata = result["metadata"]
    assert (metadata["file_name"], metadata["file_type"], metadata["model"]) == (
        "mail.png",
        "png",
        "scripted",
    )
    assert (metadata["cached"], result["meta"]["cached"], result["meta"]["attempts"]) == (False, False, 1)
    (request,) = backend.requests
    assert request["response_format"]["type"] == "json_schema"
    assert request["max_tokens"] <= 6144
    (row,) = await rows(run_task)
    assert (row["outcome"], row["steps"], row["cached"], row["file_name"]) == (
        "success",
        2,
        False,
        "mail.png",
    )
    assert row["prompt_version"] == metadata["prompt_version"] != ""


async def test_the_same_bytes_are_looked_at_once(run_task, scripted) -> None:
    backend = scripted([ANSWER])
    first = await run_task(backend, "diagram.describe", image=given(png()), file_name="a.png")
    again = await run_task(
        backend, "diagram.describe", image=given(png()), file_name="b.png", formats=["json"]
    )
    assert len(backend.requests) == 1
    assert again["meta"]["cached"]
    assert again["metadata"] | {"timestamp": 0, "processing_time": 0} == first["metadata"] | {
        "file_name": "b.png", "cached": True, "timestamp": 0, "processing_time": 0,
    }  # fmt: skip
    assert (again["steps"], list(again["diagrams"])) == (first["steps"], ["json"])
    assert again["meta"]["usage"] == first["meta"]["usage"]
    assert [row["cached"] for row in await rows(run_task)] == [True, False]


@pytest.mark.parametrize(
    "changed",
    [
        {"image": given(png("blue"))},
        {"language": "pl"},
        {"adapter": "pirate"},
        {"model": "other"},
        {"temperature": 0.7},
        {"options": {"tenant": "ann"}},
    ],
)
async def test_what_changes_the_answer_is_not_answered_from_before(run_task, scripted, changed) -> None:
    backend = scripted([ANSWER, ANSWER])
    await run_task(backend, "diagram.describe", image=given(png()))
    result = await run_task(backend, "diagram.describe", **{"image": given(png()), **changed})
    assert not result["meta"]["cached"]
    assert len(backend.requests) == 2


async def test_another_prompt_or_another_model_of_the_server_is_asked_again(
    run_task, scripted, capabilities, monkeypatch
) -> None:
    backend = scripted([ANSWER] * 3)
    await run_task(backend, "diagram.describe", image=given(png()))
    backend._capabilities = replace(capabilities, model="newer")
    await run_task(backend, "diagram.describe", image=given(png()))
    monkeypatch.setattr("worker.tasks.drawn._IN", {"auto": "Write in Latin."})
    await run_task(backend, "diagram.describe", image=given(png()))
    assert len(backend.requests) == 3


async def test_languages(run_task, scripted) -> None:
    backend = scripted([ANSWER] * 4)
    for language in ("auto", "en", "pl", "nl"):
        result = await run_task(backend, "diagram.describe", image=given(png()), language=language)
    said = [request["messages"][0]["content"][1]["text"] for request in backend.requests]
    assert "the language the diagram is written in" in said[0]
    assert "Write in English." in said[1]
    assert said[2].startswith("Na obrazie jest diagram procesu.")
    assert "Answer in Dutch." in said[3]
    result = await run_task(scripted([]), "diagram.describe", image=given(b"graph TD\nA-->B"), language="pl")
    assert result["description"].startswith("| № | Czynność | Rola |")


async def test_an_svg_is_drawn_and_its_words_are_told(run_task, scripted) -> None:
    backend = scripted([ANSWER])
    result = await run_task(backend, "diagram.describe", image=given(SVG))
    picture, text = backend.requests[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert "<text>\nOpen the mail\n</text>" in text["text"]
    assert result["metadata"]["file_type"] == "svg"


async def test_a_page_of_a_pdf_is_looked_at(run_task, scripted) -> None:
    backend = scripted([ANSWER, ANSWER])
    for page in (1, 2):
        result = await run_task(backend, "diagram.describe", image=given(pdf()), page=page)
    widths = []
    for request in backend.requests:
        url = request["messages"][0]["content"][0]["image_url"]["url"]
        widths.append(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).width)
    assert widths == [417, 419]
    assert result["metadata"]["file_type"] == "pdf"
    with pytest.raises(InvalidTask, match="no page 3; `image` has 2"):
        await run_task(backend, "diagram.describe", image=given(pdf()), page=3)


async def test_text_diagrams_are_read_without_a_model(run_task, scripted, capabilities) -> None:
    backend = scripted([], replace(capabilities, vision=False))
    result = await run_task(
        backend, "diagram.describe", image=given(b"graph TD\nA-->B"), formats=["plantuml"]
    )
    assert [step["action"] for step in result["steps"]] == ["A", "B"]
    assert result["metadata"]["file_type"] == "mermaid"
    assert (result["metadata"]["model"], result["metadata"]["adapter"], result["meta"]["attempts"]) == (
        "",
        None,
        0,
    )
    (row,) = await rows(run_task)
    assert (row["outcome"], row["file_type"]) == ("success", "mermaid")


async def test_a_path_has_a_name(run_task, scripted, tmp_path) -> None:
    (tmp_path / "order.json").write_text('[{"action": "Pack"}]')
    result = await run_task(scripted([]), "diagram.describe", image={"path": str(tmp_path / "order.json")})
    assert (result["metadata"]["file_name"], result["metadata"]["file_type"]) == ("order.json", "json")


async def test_steps_without_arrows_follow_each_other(run_task, scripted) -> None:
    plain = [{**step, "next": []} for step in STEPS]
    result = await run_task(scripted([json.dumps({"steps": plain})]), "diagram.describe", image=given(png()))
    assert [step["next"] for step in result["steps"]] == [[{"to": 2, "condition": ""}], []]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"image": given(b"graph TD\nA[b"), "file_name": "x.mmd"}, InvalidTask, "x.mmd cannot be read as mermaid: line 2"),
        ({"image": given(b"hello")}, InvalidTask, "Give Mermaid"),
        ({"image": given(png()[:60])}, InputUnavailable, "broken picture"),
        ({"image": given(b"PK\x03\x04\x00")}, InputUnavailable, "a ZIP archive"),
        ({"image": given(png()), "page": 2}, InvalidTask, "a picture has one page"),
        ({"image": given(b"%PDF-1.7 nothing")}, InputUnavailable, "broken PDF"),
        ({"image": given(SVG.replace(b"</svg>", b""))}, InputUnavailable, "broken SVG"),
        ({"image": given(png()), "language": "xx"}, InvalidTask, "`language`"),
    ],
)  # fmt: skip
async def test_what_cannot_be_described_is_said_and_logged(
    run_task, scripted, arguments, error, said
) -> None:
    backend = scripted([])
    with pytest.raises(error, match=said):
        await run_task(backend, "diagram.describe", **arguments)
    assert backend.requests == []
    (row,) = await rows(run_task)
    assert (row["outcome"], row["result"]) == (error.__name__, "")
    assert said.split(":")[-1].strip() in row["error"]


async def test_a_picture_without_a_process_is_an_error(run_task, scripted) -> None:
    with pytest.raises(OutputInvalid, match="sees no process"):
        await run_task(scripted(['{"steps": []}']), "diagram.describe", image=given(png()))


async def test_a_model_that_cannot_see_is_not_asked(run_task, scripted, capabilities) -> None:
    backend = scripted([], replace(capabilities, vision=False))
    with pytest.raises(BackendRejected, match="cannot see"):
        await run_task(backend, "diagram.describe", image=given(png()))


async def test_a_task_that_is_tried_again_is_one_request(run_task, scripted) -> None:
    backend = scripted([BackendUnavailable("away"), ANSWER])
    with pytest.raises(BackendUnavailable):
        await run_task(backend, "diagram.describe", image=given(png()), task_id="one")
    await run_task(backend, "diagram.describe", image=given(png()), task_id="one")
    (row,) = await rows(run_task)
    assert (row["task"], row["outcome"], row["error"]) == ("one", "success", "")


async def test_a_database_that_is_away_costs_no_answer(run_task, scripted, tmp_path) -> None:
    (tmp_path / "kc.db").write_bytes(b"this is no database at all" * 100)
    backend = scripted([ANSWER, ANSWER])
    for _ in range(2):
        result = await run_task(backend, "diagram.describe", image=given(png()))
        assert len(result["steps"]) == 2
    text = await run_task(backend, "diagram.describe", image=given(b"graph TD\nA-->B"))
    assert len(text["steps"]) == 2


async def test_what_does_not_fit_a_message_is_refused(run_task, scripted) -> None:
    many = given(json.dumps([{"action": "Krok"} for _ in range(400)]).encode())
    arguments = {"image": many, "file_name": "x.json"}
    fits = await run_task(scripted([]), "diagram.describe", **arguments, formats=["mermaid"])
    assert len(json.dumps(fits)) < 256 * 1024
    with pytest.raises(InputTooLarge, match=r"400 steps have .* the limit of a result is 204,800"):
        await run_task(scripted([]), "diagram.describe", **arguments, formats=["bpmn"])
    assert [row["outcome"] for row in await rows(run_task)] == ["InputTooLarge", "success"]


@pytest.mark.parametrize(("passes", "outcome"), [(True, "DeadlineExceeded"), (False, "cancelled")])
async def test_a_deadline_that_passes_is_logged_as_one(run_task, scripted, passes, outcome) -> None:
    class Stopped(scripted):
        async def chat(self, request, context, on_chunk=None):
            if passes:
                object.__setattr__(context, "deadline", time.monotonic())
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run_task(Stopped([]), "diagram.describe", image=given(png()), deadline=time.monotonic() + 600)
    await asyncio.gather(*_leaving)
    assert [row["outcome"] for row in await rows(run_task)] == [outcome]


async def test_nothing_is_written_on_the_event_loop(run_task, scripted, monkeypatch) -> None:
    threads = []

    def write(*arguments):
        threads.append(threading.current_thread())
        return ""

    monkeypatch.setattr(table, "write", write)
    await run_task(scripted([]), "diagram.describe", image=given(b"graph TD\nA-->B"))
    assert threads
    assert threading.current_thread() not in threads
