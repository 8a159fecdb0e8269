"""`image.analyze` against a model that says what is written here."""

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from worker.contracts.image import CATEGORIES
from worker.errors import BackendRejected, InputUnavailable, InvalidTask, OutputInvalid


def encoded(size=(30, 40)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def answer(**more):
    tags = {category: [] for category in CATEGORIES}
    found = {"simple_description": "A cat.", "research_description": "It is red.", "tags": tags}
    return json.dumps({**found, **more})


async def test_what_is_found_is_clean(run_task, scripted):
    tags = {category: [] for category in CATEGORIES} | {"objects": [" Cat.", "cat", "milk  jug"]}
    result = await run_task(
        scripted([answer(tags=tags)]), "image.analyze", image={"data": encoded()}, language="en"
    )
    assert result["simple_description"] == "A cat."
    assert list(result["tags"]) == list(CATEGORIES)
    assert result["tags"]["objects"] == ["Cat", "milk jug"]


async def test_a_fourth_tag_is_repaired(run_task, scripted):
    tags = {category: [] for category in CATEGORIES} | {"mood": ["a", "b", "c", "d"]}
    backend = scripted([answer(tags=tags), answer()])
    result = await run_task(backend, "image.analyze", image={"data": encoded()})
    assert result["tags"]["mood"] == []
    assert len(backend.requests) == 2


async def test_polish_is_what_is_answered_in(run_task, scripted):
    backend = scripted([answer(), answer()])
    await run_task(backend, "image.analyze", image={"data": encoded()}, title="Kot", year=1966)
    await run_task(backend, "image.analyze", image={"data": encoded()}, language="nl")
    polish, dutch = (request["messages"][0]["content"][1]["text"] for request in backend.requests)
    assert polish.startswith("Na obrazie jest plakat.")
    assert "title: Kot\nyear: 1966" in polish
    assert "Answer in Dutch." in dutch


async def test_a_picture_is_not_counted_as_text(run_task, scripted):
    noise = io.BytesIO()
    Image.effect_noise((900, 900), 90).save(noise, "PNG")
    backend = scripted([answer()])
    await run_task(backend, "image.analyze", image={"data": base64.b64encode(noise.getvalue()).decode()})
    (request,) = backend.requests
    assert len(json.dumps(request)) > 500_000
    assert request["max_tokens"] > 100


async def test_a_model_that_cannot_see_is_not_asked(run_task, scripted, capabilities):
    backend = scripted([], replace(capabilities, vision=False))
    with pytest.raises(BackendRejected, match=r"cannot see.*--mmproj"):
        await run_task(backend, "image.analyze", image={"data": encoded()})
    assert backend.requests == []


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"image": {"data": base64.b64encode(b"%PDF-1.7").decode()}}, InputUnavailable, "`image` is a PDF"),
        ({"image": {"data": encoded()}, "language": "auto"}, InvalidTask, "`language`"),
        ({"image": {"data": encoded()}, "language": "xx"}, InvalidTask, "`language`"),
        ({"image": {}}, InvalidTask, "give exactly one of"),
        ({"image": "http://x"}, InvalidTask, "`image`"),
        ({}, InvalidTask, "`image` is missing"),
    ],
)
async def test_bad_input_is_named(run_task, scripted, arguments, error, said):
    with pytest.raises(error, match=said):
        await run_task(scripted([]), "image.analyze", **arguments)


async def test_blanks_are_no_description(run_task, scripted):
    with pytest.raises(OutputInvalid, match="described nothing"):
        await run_task(scripted([answer(simple_description=" ")]), "image.analyze", image={"data": encoded()})
