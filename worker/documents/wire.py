"""How a process that reads pages is talked to: an object as JSON and some bytes, each after its length."""

import json
import struct
from typing import Any, BinaryIO

Json = dict[str, Any]

#: What files are called that are being read.
PREFIX = "kc-document-"

_LENGTHS = struct.Struct(">II")


def packed(said: Json) -> bytes:
    """An object as it is sent, and kept."""
    return json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")


def send(stream: BinaryIO, head: bytes, data: bytes = b"") -> None:
    """Write one message: an object that is packed, and bytes."""
    stream.write(_LENGTHS.pack(len(head), len(data)) + head + data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Json, bytes]:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    head, data = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    said: Json = json.loads(_exactly(stream, head))
    return said, _exactly(stream, data)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found
