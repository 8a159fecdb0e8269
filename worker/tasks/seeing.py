"""Pictures in what a model is asked."""

import base64

from worker.backends.base import Json
from worker.documents.pictures import Picture
from worker.errors import BackendRejected
from worker.tasks.base import Work


async def check_sight(work: Work) -> None:
    """Refuse to show a picture to a model that cannot see; one that does not say is shown it.

    Raises:
        BackendRejected: it says that it cannot.
    """
    capabilities = await work.capabilities()
    if capabilities.vision is False:
        raise BackendRejected(
            f"The model {capabilities.model!r} cannot see pictures.",
            "Serve a vision-language model; llama.cpp's server also needs its projector (--mmproj).",
        )


def shown(picture: Picture, text: str) -> list[Json]:
    """One message with a picture and what is asked about it; every chat template takes it from the user."""
    url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]
