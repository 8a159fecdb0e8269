"""LoRA adapters by name, as each kind of server wants to be asked."""

from typing import Any

import pytest

from worker.backends.base import CallContext
from worker.backends.scripted import Scripted
from worker.errors import BackendRejected

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello."}]}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("vllm", {"model": "pirate"}),
        ("llamacpp", {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}),
    ],
)
async def test_an_adapter_is_asked_for_by_its_name(connect, kind, asked) -> None:
    async with Scripted(kind=kind, adapters=("parrot", "pirate")) as server:
        backend = connect(server, kind=kind)
        await backend.chat(ASK, CallContext(adapter="pirate"))
        assert asked.items() <= (server.memory.requests[-1].body or {}).items()
        with pytest.raises(BackendRejected, match=r"no LoRA adapter 'crow'\. It has: parrot, pirate\."):
            await backend.chat(ASK, CallContext(adapter="crow"))


@pytest.mark.parametrize(
    ("kind", "said"), [("vllm", "--enable-lora"), ("llamacpp", "--lora"), ("llama-cpp-python", "--lora")]
)
async def test_a_server_without_adapters_says_how_it_gets_one(connect, kind, said) -> None:
    async with Scripted(kind=kind) as server:
        backend = connect(server, kind="vllm" if kind == "vllm" else "llamacpp")
        with pytest.raises(BackendRejected, match=said):
            await backend.chat(ASK, CallContext(adapter="pirate"))
