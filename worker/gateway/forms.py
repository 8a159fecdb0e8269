"""Forms with a file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from worker.contracts.base import Json
from worker.errors import InputUnavailable
from worker.gateway.answers import ApiError, of_storage
from worker.storage.blobs import Blobs

#: How the fields of a form are read, by their names.
Fields = Mapping[str, Callable[[str], Any]]
_MOST_NAME_CHARS = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came in a form.

    Attributes:
        name: its own, without folders; "" for none.
        data: its bytes.
        fields: the others of the form.
    """

    name: str
    data: bytes
    fields: Json

    async def kept(self, blobs: Blobs) -> str:
        """The reference under which it is kept for the task that works on it.

        Raises:
            ApiError: it cannot be kept.
        """
        try:
            return await asyncio.to_thread(blobs.put, self.data)
        except InputUnavailable as error:
            raise of_storage(error) from None


@asynccontextmanager
async def form_of(request: Request, wanted: str) -> AsyncIterator[FormData]:
    """The form in a request; its files are gone afterwards.

    Args:
        request: that has one.
        wanted: fields that have to be there, for messages.

    Raises:
        ApiError: it is none, or there is no room for its files.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            415,
            f"The body is {kind[:64]!r}; it has to be multipart/form-data with {wanted}.",
            "unsupported_media_type",
        )
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            yield form
    except OSError as error:
        raise ApiError(
            507, f"The file cannot be kept: {error.strerror}.", "storage_full", kind="server_error"
        ) from None


async def uploaded(request: Request, most_bytes: int, readers: Fields) -> Upload:
    """A form's `file` and its other fields.

    Raises:
        ApiError: there is none, it is too long, or a field is wrong.
    """
    async with form_of(request, "`file`") as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "`file` is missing.", param="file")
        fields = _fields(form, readers)
        data = await asyncio.to_thread(file.file.read, most_bytes + 1)
    if len(data) > most_bytes:
        raise ApiError(413, f"`file` has more than {most_bytes:,} bytes.", "input_too_large", param="file")
    name = PurePath((file.filename or "").replace("\\", "/")).name[:_MOST_NAME_CHARS]
    return Upload(name, data, fields)


def _fields(form: FormData, readers: Fields) -> Json:
    """The fields beside the file.

    Raises:
        ApiError: naming the one that is wrong.
    """
    found: Json = {}
    for name, value in form.multi_items():
        if name == "file":
            continue
        if name not in readers or not isinstance(value, str):
            known = ", ".join(readers)
            raise ApiError(
                400, f"`{name[:64]}` is not a field of this form; there are {known}.", param=name[:64]
            )
        try:
            found[name] = readers[name](value)
        except ValueError:
            raise ApiError(400, f"`{name}` has to be a number.", param=name) from None
    return found
