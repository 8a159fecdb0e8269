"""The header of a GGUF file, read carefully: a hostile file costs neither memory nor time.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Numbers of types and their block sizes:
llama.cpp, gguf-py/gguf/constants.py. llama.cpp reads versions 2 and 3.
"""

import math
import os
import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from worker.errors import ModelError
from worker.models.words import HEAD_BYTES, recognise, size_text

MAGIC = b"GGUF"
_VERSIONS = (2, 3)

# A model has tens of keys, thousands of tensors and up to a million vocabulary entries.
_MAX_KEYS = 65_536
_MAX_TENSORS = 262_144
_MAX_STRINGS = 4_000_000
_MAX_DIMENSIONS = 4
# Longer keys and texts (chat templates) are read past, not kept.
_KEPT_BYTES = 256

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", _BOOL: "<B", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip

#: Tensor type → name, weights in a block, bytes of a block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

#: `general.file_type` → the name people know a quantisation by.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

Scalar = str | int | float | bool


@dataclass(frozen=True)
class GgufInfo:
    """What the header of a GGUF file says.

    Attributes:
        version: format version.
        metadata: keys with one value; texts are cut at 256 bytes.
        arrays: keys with an array → its length.
        tensors: number of tensors.
        parameters: number of weights.
        type_bytes: tensor type name → bytes of such tensors.
        unknown_types: numbers of tensor types this reader does not know.
        needed_bytes: least size of the whole file, from the tensors' offsets and sizes.
        size_bytes: size of the file.
    """

    version: int
    metadata: dict[str, Scalar]
    arrays: dict[str, int]
    tensors: int
    parameters: int
    type_bytes: Counter[str] = field(default_factory=Counter)
    unknown_types: frozenset[int] = frozenset()
    needed_bytes: int = 0
    size_bytes: int = 0

    @property
    def missing_bytes(self) -> int:
        """Bytes cut off at the end; 0 for a whole file."""
        return max(0, self.needed_bytes - self.size_bytes)

    @property
    def architecture(self) -> str | None:
        """Architecture, such as "llama"."""
        return self._text("general.architecture")

    @property
    def context_length(self) -> int | None:
        """Tokens of context the model was trained for."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) else None

    @property
    def quantization(self) -> str | None:
        """Quantisation, such as "Q4_K_M": as the file says, else the type most bytes are in."""
        value = self.metadata.get("general.file_type")
        if isinstance(value, int) and value in _FILE_TYPES:
            return _FILE_TYPES[value]
        return self.type_bytes.most_common(1)[0][0] if self.type_bytes else None

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a vocabulary."""
        return bool(self._text("tokenizer.ggml.model")) and self.arrays.get("tokenizer.ggml.tokens", 0) > 0

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be put into the form the model was trained on."""
        return bool(self._text("tokenizer.chat_template"))

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def read_gguf(path: Path) -> GgufInfo:
    """Read the header.

    Raises:
        ModelError: not a GGUF file, not one llama.cpp reads, damaged, or unreadable. A file whose header is
            whole but whose tensors are cut off is no error here: see `GgufInfo.missing_bytes`.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path.name).read()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error


def split_parts(name: str) -> tuple[str, ...]:
    """All file names of a model split over several files, first to last; `name` alone for any other."""
    match = _SPLIT.fullmatch(name)
    if match is None or not 1 <= int(match["count"]) <= 9999:
        return (name,)
    count = int(match["count"])
    return tuple(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


class _Reader:
    """One pass over the header; a length is checked against what is left of the file before it is used."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._strings_left = _MAX_STRINGS

    def read(self) -> GgufInfo:
        version = self._version()
        tensors, keys = self._number("<Q"), self._number("<Q")
        # A key takes at least 13 bytes, a tensor 24.
        if keys > _MAX_KEYS or tensors > _MAX_TENSORS or keys * 13 + tensors * 24 > self._size:
            raise self._damaged(f"claims {keys} metadata keys and {tensors} tensors")
        metadata: dict[str, Scalar] = {}
        arrays: dict[str, int] = {}
        for _ in range(keys):
            self._pair(metadata, arrays)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise self._damaged(f"has the alignment {alignment!r}")
        return self._tensors(version, tensors, alignment, metadata, arrays)

    def _version(self) -> int:
        head = self._file.read(HEAD_BYTES)
        if not head.startswith(MAGIC):
            seen = recognise(head) or f"begins with {head[:4]!r} where {MAGIC!r} belongs"
            raise ModelError(f"{self._name} is not a GGUF model: it {seen}.")
        self._file.seek(len(MAGIC))
        self._at = len(MAGIC)
        version = self._number("<I")
        if version and version & 0xFFFF == 0:
            raise ModelError(
                f"{self._name} is big-endian GGUF, made for other processors. Get the little-endian file."
            )
        if version not in _VERSIONS:
            age = "newer than" if version > max(_VERSIONS) else "older than"
            raise ModelError(
                f"{self._name} is GGUF version {version}, {age} the versions 2 and 3 llama.cpp reads. "
                "Get a file converted again from the original model."
            )
        return version

    def _pair(self, metadata: dict[str, Scalar], arrays: dict[str, int]) -> None:
        key = self._string()
        if key in metadata or key in arrays:
            raise self._damaged(f"has the metadata key {key!r} twice")
        kind = self._number("<I")
        if kind == _ARRAY:
            length = self._array(key)
            if len(key) < _KEPT_BYTES:
                arrays[key] = length
            return
        value: Scalar
        if kind == _STRING:
            value = self._string()
        elif kind in _SCALARS:
            value = self._scalar(_SCALARS[kind])
            value = bool(value) if kind == _BOOL else value
        else:
            raise self._damaged(f"has the unknown value type {kind} at {key!r}")
        if len(key) < _KEPT_BYTES:
            metadata[key] = value

    def _array(self, key: str) -> int:
        kind, length = self._number("<I"), self._number("<Q")
        if kind in _SCALARS:
            self._skip(struct.calcsize(_SCALARS[kind]) * length)
        elif kind == _STRING:
            self._strings_left -= length
            if self._strings_left < 0 or length * 8 > self._size - self._at:
                raise self._damaged(f"claims {length} texts in {key!r}")
            for _ in range(length):
                self._skip(self._number("<Q"))
        else:
            raise self._damaged(f"has an array of the unknown type {kind} at {key!r}")
        return length

    def _tensors(
        self, version: int, count: int, alignment: int, metadata: dict[str, Scalar], arrays: dict[str, int]
    ) -> GgufInfo:
        parameters = end = 0
        type_bytes: Counter[str] = Counter()
        unknown: set[int] = set()
        for _ in range(count):
            name = self._string()
            dimensions = self._number("<I")
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise self._damaged(f"has a tensor {name!r} of {dimensions} dimensions")
            shape = [self._number("<Q") for _ in range(dimensions)]
            weights = math.prod(shape)
            kind, offset = self._number("<I"), self._number("<Q")
            if weights >= 2**63 or offset % alignment:
                raise self._damaged(f"has a tensor {name!r} of shape {shape} at offset {offset}")
            parameters += weights
            size = 0
            if kind in TENSOR_TYPES:
                type_name, block, block_bytes = TENSOR_TYPES[kind]
                if shape[0] % block:
                    raise self._damaged(f"has a {type_name} tensor {name!r} with rows of {shape[0]} weights")
                size = weights // block * block_bytes
                type_bytes[type_name] += size
            else:
                unknown.add(kind)
            end = max(end, offset + size)
        data_at = -(-self._at // alignment) * alignment
        needed = data_at + end if count else self._at
        return GgufInfo(
            version, metadata, arrays, count, parameters, type_bytes, frozenset(unknown), needed, self._size
        )

    def _string(self) -> str:
        length = self._number("<Q")
        if length > self._size - self._at:
            raise self._cut_off()
        kept = self._take(min(length, _KEPT_BYTES))
        self._skip(length - len(kept))
        return kept.decode("utf-8", "replace")

    def _number(self, form: str) -> int:
        return int(self._scalar(form))

    def _scalar(self, form: str) -> int | float:
        value: int | float = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise self._cut_off()
        self._at += length
        return data

    def _skip(self, length: int) -> None:
        if length > self._size - self._at:
            raise self._cut_off()
        # Seeking throws the read buffer away: only worth it for more than the buffer holds.
        if length <= 4096:
            self._take(length)
        else:
            self._file.seek(length, os.SEEK_CUR)
            self._at += length

    def _cut_off(self) -> ModelError:
        return ModelError(
            f"{self._name} is truncated or damaged: its {size_text(self._size)} end inside the header. "
            "Pull it again with `kc-worker models pull`."
        )

    def _damaged(self, what: str) -> ModelError:
        return ModelError(
            f"{self._name} is damaged: its header {what}. Pull it again with `kc-worker models pull`."
        )
