"""Writes tiny models: a GGUF file and a folder in Hugging Face layout, as real ones are laid out."""

import json
import struct
from pathlib import Path
from typing import Any

_TYPES = {int: (4, "<I"), float: (6, "<f"), bool: (7, "<?")}

CHAT_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 4096,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a"],
    "tokenizer.ggml.scores": [0.0, 1.0, 2.0],
    "tokenizer.chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
    "general.flag": True,
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        kind = 8 if isinstance(value[0], str) else _TYPES[type(value[0])][0]
        items = b"".join(text(v) if isinstance(v, str) else struct.pack(_TYPES[type(v)][1], v) for v in value)
        return text(key) + struct.pack("<IIQ", 9, kind, len(value)) + items
    kind, form = _TYPES[type(value)]
    return text(key) + struct.pack("<I", kind) + struct.pack(form, value)


def gguf(
    metadata: dict[str, Any] | None = None,
    *,
    version: int = 3,
    tensors: int = 2,
    kind: int = 0,
    rows: int = 32,
    seed: int = 0,
    order: str = "<",
) -> bytes:
    """A GGUF file with `tensors` tensors of 2 by `rows` weights of type `kind` (F32: four bytes a weight)."""
    pairs = CHAT_METADATA if metadata is None else metadata
    out = b"GGUF" + struct.pack(f"{order}IQQ", version, tensors, len(pairs))
    out += b"".join(pair(key, value) for key, value in pairs.items())
    size = 2 * rows * 4
    for number in range(tensors):
        out += text(f"blk.{number}.weight") + struct.pack("<IQQIQ", 2, rows, 2, kind, number * size)
    out += b"\0" * (-len(out) % 32)
    return out + bytes((seed + at) % 251 for at in range(tensors * size))


def safetensors(tensors: int = 2, dtype: str = "BF16", seed: int = 0) -> bytes:
    """A safetensors file with `tensors` tensors of 8 by 8 elements of two bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for number in range(tensors):
        header[f"layer.{number}"] = {
            "dtype": dtype,
            "shape": [8, 8],
            "data_offsets": [number * 128, (number + 1) * 128],
        }
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes((seed + at) % 251 for at in range(tensors * 128))


def hf_files(*, shards: int = 1) -> dict[str, bytes]:
    """The files of a model in Hugging Face layout."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
    }
    files = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
    }
    if shards == 1:
        files["model.safetensors"] = safetensors()
        return files
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    files |= {name: safetensors(seed=number) for number, name in enumerate(names)}
    files["model.safetensors.index.json"] = json.dumps(
        {"weight_map": {f"{name}.{at}": name for at, name in enumerate(names)}}
    ).encode()
    return files


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
