"""A projector file with which llama.cpp shows pictures to SmolLM2: `write_projector(path)`.

The layout is LLaVA's: a small vision tower and a two-layer projector, all of random weights. Pictures are really
taken, encoded and counted; what the model says of them means nothing.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Side of the pictures and of their patches, pixels; width of the tower; width of SmolLM2-135M.
SIDE, PATCH, _WIDTH, _TEXT_WIDTH = 64, 16, 64, 576
#: Tokens of one picture.
TOKENS = (SIDE // PATCH) ** 2
_LAYERS, _HEADS = 2, 2
_ALIGNMENT = 32

Tensors = dict[str, NDArray[np.float32]]


def write_projector(path: Path) -> None:
    """Write it as GGUF 3 (ggml-org/ggml, docs/gguf.md)."""
    about: dict[str, object] = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": SIDE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": _WIDTH,
        "clip.vision.feed_forward_length": 2 * _WIDTH,
        "clip.vision.block_count": _LAYERS,
        "clip.vision.attention.head_count": _HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.projection_dim": _TEXT_WIDTH,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    tensors = _tensors(np.random.default_rng(1))
    infos, data = b"", b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]  # the fastest dimension first
        infos += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += _padded(tensor.tobytes())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(about))
    head += b"".join(_text(name) + _value(value) for name, value in about.items())
    path.write_bytes(_padded(head + infos) + data)


def _tensors(random: np.random.Generator) -> Tensors:
    made: Tensors = {}

    def linear(name: str, out: int, into: int) -> None:
        made[f"{name}.weight"] = random.normal(0, 0.02, (out, into)).astype(np.float32)
        made[f"{name}.bias"] = np.zeros(out, np.float32)

    def norm(name: str) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = (
            np.ones(_WIDTH, np.float32),
            np.zeros(_WIDTH, np.float32),
        )

    made["v.patch_embd.weight"] = random.normal(0, 0.02, (_WIDTH, 3, PATCH, PATCH)).astype(np.float32)
    made["v.position_embd.weight"] = random.normal(0, 0.02, (TOKENS, _WIDTH)).astype(np.float32)
    norm("v.pre_ln")
    norm("v.post_ln")
    for layer in range(_LAYERS):
        block = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"{block}.{part}", _WIDTH, _WIDTH)
        norm(f"{block}.ln1")
        norm(f"{block}.ln2")
        linear(f"{block}.ffn_up", 2 * _WIDTH, _WIDTH)
        linear(f"{block}.ffn_down", _WIDTH, 2 * _WIDTH)
    linear("mm.0", _TEXT_WIDTH, _WIDTH)
    linear("mm.2", _TEXT_WIDTH, _TEXT_WIDTH)
    return made


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(value: object) -> bytes:
    """A value with the number of its type before it."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case list():
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
    raise TypeError(type(value))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
