"""The header of a safetensors file. Format: https://github.com/huggingface/safetensors#format."""

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from worker.errors import ModelError
from worker.models.words import HEAD_BYTES, parse_object, recognise

# The largest models' headers have a few MiB.
_MAX_HEADER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class SafetensorsInfo:
    """What the header of a safetensors file says.

    Attributes:
        tensors: number of tensors.
        parameters: number of elements in them.
        dtypes: data type name → elements of that type.
        needed_bytes: least size of the whole file.
        size_bytes: size of the file.
    """

    tensors: int
    parameters: int
    dtypes: Counter[str]
    needed_bytes: int
    size_bytes: int

    @property
    def missing_bytes(self) -> int:
        """Bytes cut off at the end; 0 for a whole file."""
        return max(0, self.needed_bytes - self.size_bytes)


def read_safetensors(path: Path) -> SafetensorsInfo:
    """Read the header.

    Raises:
        ModelError: not a safetensors file, damaged, or unreadable. Tensors cut off are no error here:
            see `SafetensorsInfo.missing_bytes`.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD_BYTES)
            length = int.from_bytes(head[:8], "little")
            if head[8:9] != b"{" or length > _MAX_HEADER_BYTES:
                seen = recognise(head) or "has no safetensors header"
                raise ModelError(f"{path.name} is not a safetensors file: it {seen}.")
            if 8 + length > size:
                raise ModelError(
                    f"{path.name} is truncated: its header has {length} bytes, the whole file {size}. "
                    "Pull it again with `kc-worker models pull`."
                )
            file.seek(8)
            header = parse_object(file.read(length), f"the header of {path.name}")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    header.pop("__metadata__", None)
    dtypes: Counter[str] = Counter()
    end = 0
    for name, tensor in header.items():
        dtype, count, stop = _tensor(tensor, path.name, name)
        dtypes[dtype] += count
        end = max(end, stop)
    return SafetensorsInfo(len(header), dtypes.total(), dtypes, 8 + length + end, size)


def _tensor(tensor: object, file_name: str, name: str) -> tuple[str, int, int]:
    """Data type, number of elements and end offset in bytes of one tensor."""
    match tensor:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(), int(stop)]} if (
            stop >= 0
            and len(shape) <= 16
            and all(isinstance(size, int) and 0 <= size < 2**63 for size in shape)
        ):
            return dtype, math.prod(shape), stop
    raise ModelError(f"{file_name} is damaged: its header describes the tensor {name[:80]!r} wrongly.")
