"""Texts by value or by reference, with a limit: a message in Redis stays small."""

from dataclasses import dataclass

from worker.contracts.base import Input
from worker.errors import InputTooLarge, InputUnavailable, InvalidTask
from worker.storage.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Texts:
    """Reads and keeps texts.

    Attributes:
        inputs: those by reference.
        max_bytes: most bytes of one text.
    """

    inputs: Inputs
    max_bytes: int

    def check_size(self, size_bytes: int) -> None:
        """Refuse what is over the limit.

        Raises:
            InputTooLarge: naming both sizes.
        """
        if size_bytes > self.max_bytes:
            raise InputTooLarge(
                f"`text` has {size_bytes:,} bytes, the limit is {self.max_bytes:,}.",
                "Split it, or raise MAX_TEXT_BYTES on the worker.",
            )

    def put(self, text: str) -> str:
        """Keep a text as a blob and return its reference. Blocking."""
        data = text.encode()
        self.check_size(len(data))
        return self.inputs.blobs.put(data)

    async def read(self, given: Input, field: str = "text") -> str:
        """The text of an input.

        Raises:
            InputUnavailable: it is not UTF-8; others as `Inputs.read` says.
            InvalidTask: it holds NUL bytes.
        """
        name = repr(given.url or given.path or given.blob or f"{field}.data")
        data = await self.inputs.read(given, field, self.max_bytes)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputUnavailable(f"{name} is not UTF-8 text (byte {error.start}).") from None
        if "\0" in text:
            raise InvalidTask(f"{name} contains NUL bytes; it is not text.")
        return text
