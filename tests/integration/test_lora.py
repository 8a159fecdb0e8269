"""LoRA adapters by their names, on llama.cpp's own server."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.models.writers import pair, text
from worker.backends import create_backend
from worker.backends.base import BackendOptions, CallContext
from worker.errors import BackendRejected
from worker.local.child import Child, claim_port
from worker.local.llamacpp import bundled_model

#: Of SmolLM2-135M.
WIDTH, INNER = 576, 1536
SERVER = Path(__file__).with_name("lora_server.py")


def adapter(path: Path, strength: float) -> Path:
    """A LoRA of rank 1 for one matrix; with strength the model says something else."""
    metadata = {
        "general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora", "adapter.lora.alpha": 1.0,
    }  # fmt: skip
    down = [strength * ((place * 37) % 101 - 50) / 50 for place in range(INNER)]
    up = [strength * ((place * 53) % 97 - 48) / 48 for place in range(WIDTH)]
    out = (
        b"GGUF"
        + struct.pack("<IQQ", 3, 2, len(metadata))
        + b"".join(pair(*item) for item in metadata.items())
    )
    out += text("blk.20.ffn_down.weight.lora_a") + struct.pack("<IQQIQ", 2, INNER, 1, 0, 0)
    out += text("blk.20.ffn_down.weight.lora_b") + struct.pack("<IQQIQ", 2, 1, WIDTH, 0, INNER * 4)
    out += b"\0" * (-len(out) % 32) + struct.pack(f"<{INNER + WIDTH}f", *down, *up)
    path.write_bytes(out)
    return path


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lora")
    adapters = [adapter(folder / "nothing.gguf", 0.0), adapter(folder / "pirate.gguf", 3.0)]
    port = claim_port(None, "")
    command = [sys.executable, str(SERVER), str(port), str(bundled_model()), *map(str, adapters)]
    with Child("llama.cpp", command, directory=folder) as server:
        server.wait_until(lambda: "listening on" in server.log(), 120)
        yield f"http://127.0.0.1:{port}"


async def test_an_adapter_changes_the_answer_and_one_that_is_not_there_is_named(url: str) -> None:
    backend = create_backend("llamacpp", BackendOptions(urls=(url,)))
    request = {
        "messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 12, "temperature": 0, "seed": 1,
    }  # fmt: skip
    try:
        said = {
            name: (await backend.chat(request, CallContext(task_id="test", adapter=name))).text
            for name in ("", "nothing", "pirate")
        }
        assert said["nothing"] == said[""]
        assert said["pirate"] != said[""]
        assert (await backend.chat(request, CallContext(task_id="test"))).text == said[""]
        with pytest.raises(BackendRejected, match=r"no LoRA adapter 'parrot'\. It has: nothing, pirate\."):
            await backend.chat(request, CallContext(task_id="test", adapter="parrot"))
    finally:
        await backend.aclose()
