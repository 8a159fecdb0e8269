"""What tasks have at hand beside the model servers; the same for all tasks of one process."""

from dataclasses import dataclass

from worker.database.drawings import Drawings
from worker.database.stories import Stories
from worker.documents.pictures import Look
from worker.documents.readers import Readers
from worker.storage.texts import Texts


@dataclass(frozen=True, slots=True)
class Tools:
    """Inputs, and what is remembered.

    Attributes:
        texts: where referenced texts and files are read.
        look: how much of a picture is looked at.
        readers: processes that read pages.
        drawings: what was found in diagrams before.
        stories: conversations that are remembered.
    """

    texts: Texts
    look: Look
    readers: Readers
    drawings: Drawings
    stories: Stories
