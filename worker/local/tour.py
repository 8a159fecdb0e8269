"""The tour of `kc-worker demo`: real tasks through real parts, and what came of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from worker.errors import TaskError
from worker.local import exhibits
from worker.producer import Json, Producer, Sent
from worker.storage.blobs import Blobs

_SAMPLING: Json = {"temperature": 0, "seed": 1}
_NOTE = (
    "The lighthouse on Bell Rock was built between 1807 and 1810 by Robert Stevenson. The rock lies eleven "
    "miles off the Scottish coast and is under water at high tide, so the men could work only a few hours a "
    "day in summer. The tower is 35 metres tall and has withstood every storm since."
)
_LETTER = (
    "Hello, I am Maria Lindqvist from Uppsala. Please send 3 boxes of green tea and call me on 018-555 0134."
)
_ORDER: Json = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "city": {"type": "string", "maxLength": 40},
        "product": {"type": "string", "maxLength": 40},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    "required": ["name", "city", "product", "quantity"],
    "additionalProperties": False,
}
_BOOKING: Json = {
    "type": "object",
    "properties": {
        "what": {"enum": ["room", "table", "taxi"]},
        "people": {"type": "integer", "minimum": 1, "maximum": 20},
        "when": {"type": "string", "maxLength": 20},
    },
    "required": ["what", "people", "when"],
    "additionalProperties": False,
}
_EXAMPLES: list[Json] = [
    {
        "request": "need a table 4 us 4 ppl fri 8pm",
        "normalized": {"what": "table", "people": 4, "when": "Friday 20:00"},
    },
    {"request": "rm for 1 on sunday", "normalized": {"what": "room", "people": 1, "when": "Sunday"}},
]
_OPENING = "Tell a story about a lighthouse keeper and a lost boat, a few sentences at a time. Begin."
_TELLING: Json = {"max_tokens": 64, **_SAMPLING}
_QUESTIONS = ("Name a colour.", "Name an animal.", "Name a fruit.", "Name a country.")


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop of the tour.

    Attributes:
        title: what it shows.
        tasks: names and arguments.
        shape: "single"; "chain", each task fed by the one before; "turns", each sent when the one before has
            ended; "burst", all at once.
        queue: the queue they are sent to.
        needs_sight: it is passed by where the model cannot see.
    """

    title: str
    tasks: tuple[tuple[str, Json], ...]
    shape: Literal["single", "chain", "turns", "burst"] = "single"
    queue: str = "interactive"
    needs_sight: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of one task.

    Attributes:
        title: the stop it belongs to.
        task: its name.
        id: Celery's task id.
        input: its arguments.
        output: its result without `meta`.
        prompt_tokens: tokens read by the model.
        completion_tokens: tokens written by the model.
        ttft_s: seconds to the first token of the first model call; None where there is none.
        tokens_per_s: tokens written (embeddings: read) in a second of the task's time.
        queue_s: seconds in the queue.
        wall_s: seconds from sending to the answer, as the producer saw them.
        model: what answered; "" where nothing had to.
        skipped: why it was passed by; "" where it was not.
    """

    title: str
    task: str
    id: str
    input: Json
    output: Json
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float | None
    tokens_per_s: float
    queue_s: float | None
    wall_s: float
    model: str
    skipped: str = ""


def stops(blobs: Blobs) -> list[Stop]:
    """The tour, one stop after another; the last is the longest.

    Args:
        blobs: of the worker; what it reads pictures and documents from.
    """
    page, poster = ({"blob": blobs.put(one)} for one in (exhibits.scanned_page(), exhibits.poster()))
    flowchart = {"blob": blobs.put(exhibits.FLOWCHART.encode())}
    story = files("worker.local").joinpath("story.txt").read_text(encoding="utf-8")
    question: Json = {"messages": [{"role": "user", "content": "What is a message queue? One sentence."}]}
    return [
        Stop("A question", (("llm.chat", {**question, "max_tokens": 48, **_SAMPLING}),)),
        Stop(
            "Vectors that know which sentences belong together",
            (("llm.embed", {"input": ["The cat sleeps.", "A kitten naps.", "Stocks fell sharply."]}),),
        ),
        Stop(
            "Data from a letter, valid against a JSON Schema",
            (("llm.extract", {"text": _LETTER, "schema": _ORDER, "max_tokens": 80, **_SAMPLING}),),
        ),
        Stop(
            "A sloppy request as clean JSON, after two examples",
            (
                (
                    "text.normalize",
                    {
                        "request": "taxi for 2 pls tmrw 7am",
                        "schema": _BOOKING,
                        "examples": _EXAMPLES,
                        "max_tokens": 80,
                        **_SAMPLING,
                    },
                ),
            ),
        ),
        Stop("Keywords", (("text.keywords", {"text": _NOTE, "max_keywords": 5, **_SAMPLING}),)),
        Stop(
            "A chain: a summary, and keywords of that summary",
            (
                ("text.summarize", {"text": _NOTE, "max_length": 25, **_SAMPLING}),
                ("text.keywords", {"max_keywords": 3, **_SAMPLING}),
            ),
            shape="chain",
        ),
        Stop(
            "Four questions at once, answered side by side by one server",
            tuple(
                (
                    "llm.chat",
                    {"messages": [{"role": "user", "content": text}], "max_tokens": 16, **_SAMPLING},
                )
                for text in _QUESTIONS
            ),
            shape="burst",
        ),
        Stop("A scanned page, askew and dirty, read by OCR", (("document.ocr", {"document": page}),)),
        Stop(
            "A flowchart's steps: who does what",
            (("diagram.describe", {"image": flowchart, "file_name": "order.mmd"}),),
        ),
        Stop(
            "A story, and its next turn: what was said is remembered",
            (
                ("story.continue", {"session_id": "demo", "prompt": _OPENING, **_TELLING}),
                ("story.continue", {"session_id": "demo", "prompt": "And then?", **_TELLING}),
            ),
            shape="turns",
        ),
        Stop(
            "A poster, described",
            (("image.analyze", {"image": poster, "title": "Summer 1966", "language": "en", **_SAMPLING}),),
            needs_sight=True,
        ),
        Stop(
            "A text longer than the model's context: split, summarised in parts, joined",
            (("text.summarize", {"text": story, "max_length": 50, "max_tokens": 64, **_SAMPLING}),),
            queue="batch",
        ),
    ]


def run_tour(producer: Producer, blobs: Blobs, on_update: Callable[[list[Sent]], None]) -> Iterator[Shown]:
    """Send the tour, stop after stop, and yield each task with its answer.

    Args:
        producer: where it is sent.
        blobs: as for `stops`.
        on_update: called every 50 ms with the tasks that have not ended.

    Raises:
        TaskError: a task failed; the message names it.
        LocalError: Redis cannot be reached.
    """
    for stop in stops(blobs):
        for sent in _sent(producer, stop):

            def show(tasks: list[Sent] = sent) -> None:
                on_update([task for task in tasks if task.ended_s is None])

            producer.follow(sent, on_update=show)
            for task in sorted(sent, key=lambda task: not task.latest.failed):
                yield _shown(stop, task)


def _sent(producer: Producer, stop: Stop) -> Iterator[list[Sent]]:
    """The tasks of a stop; those that come together are followed together."""
    if stop.shape == "chain":
        yield producer.send_chain(stop.tasks, stop.queue)
    elif stop.shape == "burst":
        yield [producer.send(name, kwargs, stop.queue) for name, kwargs in stop.tasks]
    else:
        for name, kwargs in stop.tasks:
            yield [producer.send(name, kwargs, stop.queue)]


def _shown(stop: Stop, task: Sent) -> Shown:
    update = task.latest
    if stop.needs_sight and update.error_type == "BackendRejected" and "cannot see" in update.error:
        return _passed_by(stop, task)
    if update.state != "SUCCESS":
        reason = f"{update.error_type}: {update.error}" if update.error_type else update.state
        raise TaskError(f"{task.name} ({stop.title}) failed. {reason}")
    output: Json = dict(update.result)
    meta: Any = output.pop("meta")
    usage, timings = meta["usage"], meta["timings"]
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return Shown(
        title=stop.title,
        task=task.name,
        id=task.id,
        input=task.kwargs,
        output=output,
        prompt_tokens=prompt,
        completion_tokens=completion,
        ttft_s=timings["ttft_s"],
        tokens_per_s=round((completion or prompt) / timings["total_s"], 1),
        queue_s=timings["queue_s"],
        wall_s=round(task.wall_s, 3),
        model=meta["model"],
    )


def _passed_by(stop: Stop, task: Sent) -> Shown:
    """A stop that the model cannot make."""
    return Shown(
        title=stop.title, task=task.name, id=task.id, input=task.kwargs, output={}, prompt_tokens=0,
        completion_tokens=0, ttft_s=None, tokens_per_s=0.0, queue_s=None, wall_s=round(task.wall_s, 3),
        model="", skipped=task.latest.error,
    )  # fmt: skip
