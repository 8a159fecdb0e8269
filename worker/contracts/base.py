"""Common to every task: how arguments are read, the options, and the `meta` of a result."""

import json
import re
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from worker.errors import InvalidTask

Json = dict[str, Any]

#: Levels of objects and lists in each other.
MOST_DEPTH = 100
_UNCARRIABLE = re.compile("[\0\ud800-\udfff]")


def clean_text(value: object) -> object:
    """Refuse text that JSON, UTF-8 or a tokenizer cannot carry: NUL bytes and lone surrogates.

    Raises:
        ValueError: with the position of the first such character.
    """
    if isinstance(value, str) and (found := _UNCARRIABLE.search(value)):
        kind = "a NUL byte" if found.group() == "\0" else "a lone surrogate"
        raise ValueError(f"contains {kind} at character {found.start()}; remove it")
    return value


Text = Annotated[str, BeforeValidator(clean_text)]


def read_object(raw: bytes) -> Json:
    """The JSON object in some bytes.

    Raises:
        ValueError: they hold none, or one that is nested too deeply for those who write it again.
    """
    try:
        found: Any = json.loads(raw)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("it has to be an object")  # noqa: TRY004 - it is about what was sent
    level: list[Any] = [found]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return found
    raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")


class Contract(BaseModel):
    """The arguments of one task.

    Unknown fields are refused: a misspelt one would otherwise be ignored in silence. Numbers are not read
    from strings and booleans not from numbers.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    #: The field a previous task's text is put into in a chain; None: the task takes none.
    fed_by_chain: ClassVar[str | None] = None

    @classmethod
    def parse(cls, arguments: Json) -> Self:
        """Read a task's keyword arguments.

        Raises:
            InvalidTask: naming every field that is wrong and what it should be.
        """
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            problems: dict[str, str] = {}
            for problem in error.errors():
                location = _location(problem["loc"])
                problems.setdefault(
                    location, _explain(location, dict(problem), _fields_at(cls, problem["loc"][:-1]))
                )
            raise InvalidTask("; ".join(list(problems.values())[:5]) + ".") from None


def _location(parts: tuple[int | str, ...]) -> str:
    """Where a problem is, without the names pydantic gives to the arms of a union."""
    named = [str(part) for part in parts if isinstance(part, int) or (part.islower() and "[" not in part)]
    return ".".join(named) or "arguments"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[str, ...]:
    """Names of the fields of the model found by following `path` from `model`."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = _models_in(field.annotation) if field else []
        if len(inner) == 1:
            model = inner[0]
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """The models an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _explain(location: str, problem: Json, fields: tuple[str, ...]) -> str:
    """One pydantic error as a sentence that starts with the field's name."""
    match problem["type"]:
        case "missing":
            return f"`{location}` is missing"
        case "extra_forbidden":
            close = get_close_matches(location.rpartition(".")[2], fields, n=1)
            meant = f"did you mean `{close[0]}`?" if close else f"known fields: {', '.join(fields)}"
            return f"`{location}` is not a field of this task; {meant}"
        case _:
            message = str(problem["msg"]).removeprefix("Value error, ")
            return f"`{location}`: {message[0].lower()}{message[1:]}"


class Options(Contract):
    """`options`, common to all tasks.

    Attributes:
        deadline_s: seconds from enqueueing to the answer; None waits as long as it takes.
        idempotency_key: the same key submitted again gets the first one's result.
        tenant: whose task this is.
        cache: whether the answer to the same request of another task, done or under way, will do.
        stream: whether output is also written to the Redis stream of the task.
    """

    deadline_s: float | None = Field(default=None, gt=0, le=30 * 86400)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=255)
    tenant: str | None = Field(default=None, min_length=1, max_length=255)
    cache: bool = False
    stream: bool = False


class TaskArguments(Contract):
    """A contract with `options`."""

    options: Options = Options()

    @field_validator("options", mode="before")
    @classmethod
    def _no_options(cls, value: object) -> object:
        return {} if value is None else value


class Input(Contract):
    """Something to work on by reference, or in base64: exactly one of the four.

    Attributes:
        url: http or https, of a public host.
        data: base64, or a `data:` URL.
        path: of a file in one of the worker's INPUT_DIRS.
        blob: `sha256:` and the hash of its bytes.
    """

    url: Text | None = None
    data: str | None = None
    path: Text | None = None
    blob: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")

    def model_post_init(self, _context: object) -> None:
        """Exactly one of them."""
        if sum(value is not None for value in (self.url, self.data, self.path, self.blob)) != 1:
            raise ValueError("give exactly one of `url`, `data`, `path` and `blob`")


TextInput = Text | Input


Language = Annotated[str, Field(pattern=r"^(auto|[a-z]{2,3})$")]


class Timings(TypedDict):
    """Seconds; None where it cannot be known.

    Attributes:
        queue_s: from the producer's `sent_at` header to the start; None where the producer set none.
        ttft_s: to the first token of the first model call.
        total_s: from the start of the task to its answer.
    """

    queue_s: float | None
    ttft_s: float | None
    total_s: float


class Meta(TypedDict):
    """What every result says about how it came to be."""

    model: str
    backend: str
    usage: dict[str, int]
    timings: Timings
    cached: bool
    attempts: int
    finish_reason: str | None


Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
