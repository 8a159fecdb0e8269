"""JSON Schemas as producers send them: checked before the model is asked, never fetched from anywhere."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from worker.backends.base import Json
from worker.contracts.llm import clean_json
from worker.errors import InvalidTask

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 64  # levels of nesting, in a schema and in an answer
_MAX_REASON = 300  # characters of one reason; jsonschema repeats the whole value

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema that is known to be usable.

    Attributes:
        document: the schema as it was sent.
        text: the same as compact JSON.
    """

    document: Json
    text: str
    _validator: Validator

    @classmethod
    def read(cls, document: Json, field: str = "schema") -> Self:
        """Check a schema: size, depth, its own meta-schema, and that every reference stays inside it.

        Args:
            document: JSON Schema; draft 2020-12 unless `$schema` names another.
            field: what the task calls it.

        Raises:
            InvalidTask: saying where it is wrong.
        """
        text = _compact(document, field)
        dialect = document.get("$schema")
        kind = validator_for(document, default=Draft202012Validator)
        if dialect is not None and str(dialect).rstrip("#") != str(kind.META_SCHEMA["$schema"]).rstrip("#"):
            raise InvalidTask(
                f"`{field}`: `$schema` {str(dialect)[:100]!r} is not known.",
                "Use https://json-schema.org/draft/2020-12/schema or leave it out.",
            )
        try:
            kind.check_schema(document)
        except SchemaError as error:
            where = _where(field, error.absolute_path)
            raise InvalidTask(f"{where} is not valid JSON Schema: {_shorten(error.message)}.") from None
        _check_references(document, field)
        # A registry without a way to retrieve: even a reference hidden from the check is never fetched.
        validator = kind(document, format_checker=kind.FORMAT_CHECKER, registry=Registry())
        return cls(document, text, validator)

    def problem(self, data: Any) -> str | None:
        """Why an answer is not valid, with its place, or None where it is.

        Raises:
            InvalidTask: the schema refers to itself without end, or to what is not there.
        """
        try:
            error = best_match(self._validator.iter_errors(data))
        except RecursionError:
            raise InvalidTask(
                "`schema` refers to itself without end.", "Break the cycle of `$ref`."
            ) from None
        except Unresolvable as unresolvable:
            raise InvalidTask(f"`schema`: `$ref` {unresolvable.ref!r} leads nowhere.") from None
        return None if error is None else _explain(error)

    @property
    def takes_objects_only(self) -> bool:
        """Whether the root must be an object, which is all that plain JSON mode can promise."""
        return self.document.get("type") == "object"


def parse_json(answer: str) -> Any:
    """The JSON of an answer; a Markdown fence or words around the JSON are passed over.

    Raises:
        ValueError: there is none, or it holds what JSON or UTF-8 cannot carry (NaN, lone surrogates, NUL).
    """
    problem = ValueError("it is empty")
    for number, candidate in enumerate(_candidates(answer)):
        try:
            data = _decode(candidate)
        except ValueError as error:
            problem = problem if number else error  # what is wrong with the whole tells more
        else:
            return clean_json(data)
    raise problem


def _candidates(answer: str) -> Iterator[str]:
    """Where the JSON of an answer may be, likeliest first."""
    text = answer.strip()
    yield text
    if fenced := _FENCE.search(text):
        yield fenced.group(1)
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=len(text))
    yield text[start : max(text.rfind("}"), text.rfind("]")) + 1]


_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


def _decode(text: str) -> Any:
    try:
        data = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _depth(data) > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _compact(document: Json, field: str) -> str:
    if _depth(document) > _MAX_DEPTH:
        raise InvalidTask(
            f"`{field}` is nested more than {_MAX_DEPTH} levels deep.", "Flatten it, or use `$defs`."
        )
    try:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InvalidTask(f"`{field}` contains NaN or Infinity, which are not JSON.") from None
    if len(text.encode()) > _MAX_BYTES:
        raise InvalidTask(
            f"`{field}` has {len(text.encode()):,} bytes, the limit is {_MAX_BYTES:,}.", "Simplify it."
        )
    return text


def _depth(document: Any) -> int:
    """Levels of nesting; does not recurse, so that no document can exhaust the stack."""
    depth = 0
    level = [document]
    while level and depth <= _MAX_DEPTH + 1:
        level = [
            item
            for part in level
            for item in (part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())
        ]
        depth += 1
    return depth


def _check_references(document: Json, field: str) -> None:
    """Every reference of a schema and its subschemas must lead to a place in the same document."""
    root = Resource.from_contents(document, default_specification=DRAFT202012)
    base = root.id() or ""
    resolver = Registry().with_resource(base, root).resolver(base)
    pending = [(root, resolver)]
    while pending:
        schema, resolver = pending.pop()
        if isinstance(schema.contents, dict):
            for keyword in _REFERENCES:
                reference = schema.contents.get(keyword)
                if isinstance(reference, str):
                    _check_reference(
                        f"`{field}`: `{keyword}` {reference[:200]!r}", reference, resolver.lookup
                    )
        pending += [(part, resolver.in_subresource(part)) for part in schema.subresources()]


def _check_reference(name: str, reference: str, lookup: Callable[[str], object]) -> None:
    if not reference.startswith("#"):
        raise InvalidTask(
            f"{name} points outside the schema; nothing is fetched.",
            "Copy what it refers to into `$defs` and refer to it as #/$defs/….",
        )
    try:
        lookup(reference)
    except Unresolvable:
        raise InvalidTask(f"{name} leads nowhere.", "Correct it.") from None


def _explain(error: ValidationError) -> str:
    return f"at {_where('$', error.absolute_path)}: {_shorten(error.message)}"


def _where(root: str, path: Iterable[str | int]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return f"`{root}{''.join(parts)}`"


def _shorten(message: str) -> str:
    return message if len(message) <= _MAX_REASON else f"{message[: _MAX_REASON - 1]}…"
