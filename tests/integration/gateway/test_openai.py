"""The official client, unchanged."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import openai
import pytest

from tests.integration.gateway.conftest import Call
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.scripted import LocalScripted

ASK = [{"role": "user", "content": "one two three four"}]


@pytest.fixture(scope="module")
def client(gateway: LocalGateway, at_work: LocalWorker) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def until(ready: Callable[[], bool], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not ready():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


def wait_for_models(client: openai.OpenAI) -> str:
    give_up = time.monotonic() + 10
    while not (models := client.models.list().data) and time.monotonic() < give_up:
        time.sleep(0.1)
    return models[0].id


def test_models_are_those_of_the_workers(client: openai.OpenAI) -> None:
    name = wait_for_models(client)
    assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=wait_for_models(client), messages=ASK, temperature=0)
    assert answer.choices[0].message.content == "one two three four"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    assert answer.id.startswith("chatcmpl-")


def test_chat_streamed_is_the_same_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="scripted", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "one two three four"
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["stop"]
    assert chunks[-1].usage.completion_tokens > 0
    assert not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_include_usage_there_is_none(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="scripted", messages=ASK, stream=True))
    assert not any(chunk.usage for chunk in chunks)


def test_the_streaming_helper_puts_it_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="scripted", messages=ASK) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two three four"


def test_embeddings_in_both_encodings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="scripted", input=["a", "b"])  # the client asks for base64
    plain = client.embeddings.create(model="scripted", input=["a", "b"], encoding_format="float")
    assert len(packed.data) == 2
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="scripted", input=[[1, 2, 3]])


def test_errors_are_the_clients_own(client: openai.OpenAI, scripted: LocalScripted) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="scripted", messages=ASK, temperature=99)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "word " * 6000}]
        )
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        list(
            client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "word " * 6000}], stream=True
            )
        )
    assert caught.value.code == "context_length_exceeded"


def test_what_the_model_server_knows_besides_is_handed_on(
    client: openai.OpenAI, scripted: LocalScripted
) -> None:
    client.chat.completions.create(
        model="scripted", messages=ASK, extra_body={"top_k": 7, "chat_template_kwargs": {"thinking": False}},
        service_tier="flex", store=False, user="u",
    )  # fmt: skip
    asked = scripted.seen()["requests"][-1]["body"]
    assert asked["top_k"] == 7
    assert asked["chat_template_kwargs"] == {"thinking": False}
    assert not asked.keys() & {"service_tier", "store", "extra_body"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_goes_away_cancels_its_task(
    gateway: LocalGateway, at_work: LocalWorker, scripted: LocalScripted, streamed: bool
) -> None:
    long = [{"role": "user", "content": f"{streamed} " + "word " * 2000}]
    scripted.script({"fault": "hang", "times": 1} if not streamed else {"fault": "drip", "times": 1})
    before = len(scripted.seen()["requests"])
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:

        async def ask() -> None:
            found = await client.chat.completions.create(model="scripted", messages=long, stream=streamed)
            if streamed:
                async for _ in found:
                    pass

        asking = asyncio.create_task(ask())
        await until(lambda: len(scripted.seen()["requests"]) > before)
        await asyncio.sleep(0.2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    began = time.monotonic()
    await until(lambda: not scripted.seen()["in_flight"])
    assert time.monotonic() - began < 2
    scripted.clear()


def test_tools_and_their_calls(client: openai.OpenAI, scripted: LocalScripted) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ask = {"model": "scripted", "messages": ASK, "tools": [tool], "tool_choice": "required"}
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
    }
    scripted.script({"fault": "message", "message": message, "times": 2})
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls[0].function.name == "weather"
    with client.chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.name == "weather"
    assert json.loads(final.message.tool_calls[0].function.arguments) == json.loads(
        whole.message.tool_calls[0].function.arguments
    )


def test_the_openapi_document_has_every_route(call: Call) -> None:
    document = call("/openapi.json").json
    assert {
        "/v1/tasks/{task}", "/v1/tasks/{task}/events", "/v1/chat/completions", "/v1/embeddings", "/v1/models",
        "/v1/capacity", "/health", "/health/live", "/health/ready", "/metrics",
    } <= document["paths"].keys()  # fmt: skip
    assert "HTTPValidationError" not in json.dumps(document)
