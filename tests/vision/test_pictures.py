"""Pictures on their whole way: producer, Redis, worker, a real multimodal server, and back.

The server's eye has random weights (see `projector`): what is looked at is that pictures arrive, count and are
answered, never what is said of them.
"""

import base64
import io
from typing import Any

import pytest
from celery import Celery
from PIL import Image

pytestmark = pytest.mark.timeout(300)
WAIT_S = 240.0


def encoded(size: tuple[int, int], kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def ask(shared_worker: Any, producer: Celery) -> Any:
    def ask(name: str, **arguments: Any) -> Any:
        return producer.send_task(name, kwargs=arguments).get(timeout=WAIT_S)

    return ask


def chat(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 16}


def test_a_picture_in_a_chat_is_taken_counted_and_answered(ask: Any, engine: Any) -> None:
    text = {"type": "text", "text": "What is this?"}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded((120, 80))}"}}
    without, one, two = (ask("llm.chat", **chat([*[picture] * count, text])) for count in range(3))
    tokens = [answer["usage"]["prompt_tokens"] for answer in (without, one, two)]
    assert tokens[1] - tokens[0] >= engine.picture_tokens
    assert tokens[2] - tokens[1] >= engine.picture_tokens
    assert one["choices"][0]["message"]["content"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_poster_is_described_in_shape(ask: Any, engine: Any, kind: str) -> None:
    found = ask(
        "image.analyze",
        image={"data": encoded((300, 200), kind)},
        title="Sun",
        language="en",
        max_repairs=6,
    )
    assert set(found) == {"simple_description", "research_description", "tags", "meta"}
    assert found["simple_description"]
    assert found["research_description"]
    assert all(len(tags) <= 3 for tags in found["tags"].values())
    assert len(found["tags"]) == 7
    assert found["meta"]["usage"]["prompt_tokens"] > engine.picture_tokens
    assert found["meta"]["model"]
