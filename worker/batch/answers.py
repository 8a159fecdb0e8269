"""The two files a batch is answered in. What is in them is done: they are what is read after a crash."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, Self

from worker.batch.lines import Line, Problem
from worker.contracts.base import Json
from worker.contracts.openai import answer_of, refusal_of
from worker.delivery.states import Update

_LINE_ID = re.compile(r"batch_req_([0-9a-f]{32})_(\d+)")


@dataclass(slots=True)
class Usage:
    """Tokens of a batch.

    Attributes:
        input_tokens: of prompts.
        output_tokens: of answers.
    """

    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, body: Json) -> None:
        """Those of one answer: OpenAI's `usage`, or the one in a result's `meta`."""
        meta = body.get("meta")
        used = body.get("usage") or (meta.get("usage") if isinstance(meta, dict) else None)
        if isinstance(used, dict):
            self.input_tokens += int(used.get("prompt_tokens") or 0)
            self.output_tokens += int(used.get("completion_tokens") or 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a line.

    Attributes:
        number: of the line.
        good: whether it goes to the output, else to the errors.
        said: the line of the file, without its id.
    """

    number: int
    good: bool
    said: Json

    @classmethod
    def of_outcome(cls, line: Line, task_id: str, update: Update) -> "Answer":
        """What a task that has ended has to say."""
        if update.state == "SUCCESS":
            body = answer_of(line.url, line.body, task_id, update.result)
            return cls(line.number, True, _responded(line.custom_id, 200, task_id, body))
        why = refusal_of(update.error_type, update.error)
        return cls(line.number, False, _responded(line.custom_id, why.status, task_id, why.body))

    @classmethod
    def of_problem(cls, problem: Problem) -> "Answer":
        """A line that is no request."""
        why = refusal_of("InvalidTask", problem.told)
        return cls(problem.number, False, _responded(problem.custom_id, why.status, "", why.body))

    @classmethod
    def unanswered(cls, line: Line | Problem, code: str, message: str) -> "Answer":
        """A line that was not done, because its batch ended before."""
        said = {"custom_id": line.custom_id, "response": None, "error": {"code": code, "message": message}}
        return cls(line.number, False, said)


def _responded(custom_id: str, status: int, task_id: str, body: Json) -> Json:
    response = {"status_code": status, "request_id": task_id, "body": body}
    return {"custom_id": custom_id, "response": response, "error": None}


class Sink(Protocol):
    """Where answers go, and what is there.

    Attributes:
        completed: lines that have an answer.
        failed: lines that have an error instead.
        usage: tokens of the answers.
    """

    completed: int
    failed: int
    usage: Usage

    @property
    def count(self) -> int:
        """Lines that are done."""
        ...

    def __contains__(self, number: int) -> bool:
        """Whether the line of this number is done."""
        ...

    def write(self, answers: Sequence[Answer]) -> None:
        """Keep answers; they are on the disk when it returns. Blocking.

        Raises:
            OSError: they are not, none of them: the disk may be full. Try again.
        """
        ...


class ForeignFile(Exception):
    """A file for answers holds something else."""


class Done:
    """Which lines are done: a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, number: int) -> bool:
        byte, bit = divmod(number, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)

    def add(self, number: int) -> None:
        """One more."""
        byte, bit = divmod(number, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte - len(self._bits) + 1024))
        self._bits[byte] |= 1 << bit


class Answers:
    """Use it as a context manager: entering reads what is there already, and cuts off what is not whole.

    Only one process may have it. Blocking: for a thread. Entering raises ForeignFile where a file is not
    ours.

    Args:
        batch: 32 hexadecimal digits; lines of another batch are an error.
        output: file for answers; made where it is not there.
        errors: file for lines that have none.

    Attributes:
        completed: lines in the output.
        failed: lines in the errors.
        usage: tokens of the answers.
    """

    def __init__(self, batch: str, output: Path, errors: Path) -> None:
        self._batch, self._paths = batch, {True: output, False: errors}
        self._files: dict[bool, Appended] = {}
        self._open = contextlib.ExitStack()
        self._done = Done()
        self.completed = self.failed = 0
        self.usage = Usage()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            for good, path in self._paths.items():
                self._files[good] = file = opened.enter_context(Appended(path))
                for raw in file.recover():
                    if not self._adopt(raw, good):
                        break
                file.cut()
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __contains__(self, number: int) -> bool:
        return number in self._done

    @property
    def count(self) -> int:
        """Lines that are done."""
        return self.completed + self.failed

    def write(self, answers: Sequence[Answer]) -> None:
        """As `Sink.write` says."""
        kept: dict[bool, list[Answer]] = {True: [], False: []}
        for answer in answers:
            if answer.number not in self._done:
                kept[answer.good].append(answer)
        for good, some in kept.items():
            if some:
                self._files[good].append(b"".join(self._encoded(answer) for answer in some))
                for answer in some:
                    self._count(answer.number, good, answer.said)

    def _encoded(self, answer: Answer) -> bytes:
        said = {"id": f"batch_req_{self._batch}_{answer.number}", **answer.said}
        try:
            return json.dumps(said, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:  # half a surrogate pair: a model was cut off in the middle of a character
            return json.dumps(said).encode() + b"\n"

    def _adopt(self, raw: bytes, good: bool) -> bool:
        """Count a line that is in a file already; whether it is whole.

        Raises:
            ForeignFile: it is whole, and was not written here.
        """
        try:
            said = json.loads(raw)
        except ValueError:
            return False
        found = _LINE_ID.fullmatch(str(said.get("id"))) if isinstance(said, dict) else None
        if not found or found.group(1) != self._batch or int(found.group(2)) in self._done:
            raise ForeignFile(f"{self._paths[good]} has a line that is not of this batch: {raw[:80]!r}.")
        self._count(int(found.group(2)), good, said)
        return True

    def _count(self, number: int, good: bool, said: Json) -> None:
        self._done.add(number)
        if good:
            self.completed += 1
            self.usage.add(said["response"]["body"])
        else:
            self.failed += 1


@dataclass(slots=True)
class Appended:
    """A file that only grows, by whole lines."""

    path: Path
    _file: IO[bytes] = field(init=False)
    _whole: int = 0

    def __enter__(self) -> Self:
        self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def recover(self) -> Iterator[bytes]:
        """The whole lines that are there, until the caller takes no more; call `cut` then."""
        with self.path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                yield raw
                self._whole += len(raw)

    def cut(self) -> None:
        """Take away what comes after the lines that were taken."""
        self._file.truncate(self._whole)
        os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Take everything away."""
        self._whole = 0
        self.cut()

    def append(self, data: bytes) -> None:
        """Add whole lines; they are on the disk when it returns.

        Raises:
            OSError: they are not, none of them.
        """
        try:
            self._file.seek(self._whole)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._whole)
            raise
        self._whole += len(data)
