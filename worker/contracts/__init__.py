"""What producers send and get back, one file a task family."""

from worker.contracts.base import TaskArguments
from worker.contracts.diagram import DiagramArguments
from worker.contracts.document import OcrArguments
from worker.contracts.image import AnalyzeArguments
from worker.contracts.llm import ChatArguments, EmbedArguments, ExtractArguments
from worker.contracts.story import StoryArguments
from worker.contracts.text import KeywordsArguments, NormalizeArguments, SummarizeArguments

#: How each task's arguments are read, by its public name.
CONTRACTS: dict[str, type[TaskArguments]] = {
    "llm.chat": ChatArguments,
    "llm.embed": EmbedArguments,
    "llm.extract": ExtractArguments,
    "document.ocr": OcrArguments,
    "text.summarize": SummarizeArguments,
    "text.keywords": KeywordsArguments,
    "text.normalize": NormalizeArguments,
    "story.continue": StoryArguments,
    "image.analyze": AnalyzeArguments,
    "diagram.describe": DiagramArguments,
}
