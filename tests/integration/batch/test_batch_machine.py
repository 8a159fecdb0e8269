"""A batch's life against a model of it: kills at any point of any step, torn writes, lost notes, cancel, expiry."""

import asyncio
import base64
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from worker.batch import running
from worker.batch.job import Job
from worker.batch.records import Record, Records
from worker.delivery import keys
from worker.delivery.feeding import FedTask, Feed
from worker.delivery.ledger import Ledger
from worker.delivery.states import read_state
from worker.redis_client import RedisAddress
from worker.storage.files import FileStore

OWNER = "anna"
T0 = 1_800_000_000
WINDOW_S = 3600


class Killed(BaseException):
    """The process is no more."""


class Fuse:
    """Burns down with every effect a process has on the world; at its end the process is killed."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1


class KillableFeed(Feed):
    fuse: Fuse

    async def send(self, tasks: Sequence[FedTask], *, again: bool = False) -> list[str]:
        ended = []
        for task in tasks:
            self.fuse.burn()
            ended += await super().send([task], again=again)
        self.fuse.burn()
        return ended

    async def ended(self, wait_s: float) -> list[str]:
        self.fuse.burn()
        found = await super().ended(wait_s)
        self.fuse.burn()
        return found

    async def settle(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self.fuse.burn()
            await super().settle([task_id])
        self.fuse.burn()

    async def cancel(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self.fuse.burn()
            await super().cancel([task_id])
        self.fuse.burn()


class KillableRecords(Records):
    fuse: Fuse

    def save(self, record: Record) -> None:
        self.fuse.burn()
        super().save(record)
        self.fuse.burn()

    def close(self, record: Record) -> None:
        self.fuse.burn()
        super().close(record)
        self.fuse.burn()


class KillableFiles(FileStore):
    fuse: Fuse

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        self.fuse.burn()
        found = super().publish(*args, **kwargs)
        self.fuse.burn()
        return found


class BatchMachine(RuleBasedStateMachine):
    """One batch, whoever drives it, a worker, and its owner."""

    url = ""
    folder = Path()

    @initialize(lines=st.integers(1, 25), in_flight=st.sampled_from([1, 4, 100]))
    def begin(self, lines: int, in_flight: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = RedisAddress(self.url).connect(8)
        self.loop.run_until_complete(self.client.flushdb())
        self.ledger = Ledger(self.client)
        self.fuse = Fuse()
        self.now = float(T0)
        self.lines, self.in_flight = lines, in_flight
        home = self.folder / uuid.uuid4().hex
        self.files, self.records = KillableFiles(home / "files"), KillableRecords(home / "batches")
        self.files.fuse = self.records.fuse = Fuse()
        path = home / "in.jsonl"
        home.mkdir()
        with path.open("w") as file:
            for number in range(1, lines + 1):
                line = {
                    "custom_id": f"row-{number}", "method": "POST", "url": "/v1/tasks/text.keywords",
                    "body": {"text": f"river {number}"},
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
        with path.open("rb") as file:
            self.input = self.files.put(OWNER, file, "in.jsonl", "batch").id
        record = Record(
            self.records.new_id(), OWNER, self.input, "/v1/tasks/text.keywords", "1h", T0, T0 + WINDOW_S,
            self.files.new_id(), self.files.new_id(),
        )  # fmt: skip
        self.records.create(record, self.files.path(OWNER, self.input))
        self.files.delete(OWNER, self.input)
        self.batch = record.id
        self.runs: Counter[str] = Counter()
        self.asked_to_cancel = self.expired = False
        self.files.fuse = self.records.fuse = self.fuse
        self.job: Job | None = None
        self.claim: Any = None

    # ---- who drives it

    def drive(self, *, more: int | None = None) -> bool:
        """One step of whoever drives it, killed after `more` effects; whether there is more to do."""
        self.fuse.left = None
        if self.job is None:
            self.claim = self.records.claim(self.batch)
            record = self.claim.__enter__()
            if record is None:
                self.claim.__exit__(None, None, None)
                return False
            if record.ended:
                self.records.close(record)
                self.claim.__exit__(None, None, None)
                return False
            feed = KillableFeed(self.client, record.uuid.hex, OWNER, 86400)
            feed.fuse = self.fuse
            self.job = Job(
                record, self.records, self.files, feed, in_flight=self.in_flight, clock=lambda: self.now
            )
        self.fuse.left = more
        try:
            going = self.loop.run_until_complete(self.job.step(0))
        except Killed:
            self.kill()
            return True
        finally:
            self.fuse.left = None
        if not going:
            self.kill()
        return going

    def kill(self) -> None:
        if self.job is not None:
            self.job.__exit__()
            self.claim.__exit__(None, None, None)
        self.job = None

    @rule()
    def step(self) -> None:
        self.drive()

    @rule(effects=st.integers(0, 25))
    def step_and_be_killed(self, effects: int) -> None:
        self.drive(more=effects)

    @rule()
    def be_killed_between_steps(self) -> None:
        self.kill()

    @rule(size=st.integers(1, 60))
    @precondition(lambda self: self.job is None)
    def leave_a_torn_line(self, size: int) -> None:
        """What a process that was killed in the middle of a write leaves."""
        record = self.records.get(OWNER, self.batch)
        assert record is not None
        if not record.ended:
            path = self.files.path(OWNER, record.output_file_id)
            with path.open("ab") as file:
                file.write(f'{{"id": "batch_req_{record.uuid.hex}_1", "custom_id": "row-1"}}'.encode()[:size])

    # ---- the worker

    @rule(count=st.integers(1, 10), failing=st.booleans())
    def work(self, count: int, failing: bool) -> None:
        self.loop.run_until_complete(self._work(count, failing=failing))

    async def _work(self, count: int, *, failing: bool) -> None:
        for _ in range(count):
            raw = await self.client.rpop("batch")
            if raw is None:
                return
            message = json.loads(raw)
            task_id = message["headers"]["id"]
            line = json.loads(base64.b64decode(message["body"]))[1]["text"]
            if read_state(await self.client.get(keys.RESULT % task_id)).ended:
                continue  # as any worker gives way
            self.runs[line] += 1
            result: Any = {"keywords": ["a"], "count": 1, "meta": {"usage": {"completion_tokens": 1}}}
            status = "SUCCESS"
            if failing:
                status, result = (
                    "FAILURE",
                    {"exc_type": "OutputInvalid", "exc_message": ["no"], "exc_module": "m"},
                )
            value = json.dumps({"status": status, "result": result, "task_id": task_id})
            assert await self.ledger.store(task_id, "", value, 86400) == 1

    @rule()
    def lose_the_notes(self) -> None:
        """Redis was killed and has forgotten its last second."""
        self.loop.run_until_complete(self.client.delete(keys.ENDED % self.batch.removeprefix("batch_")))

    # ---- its owner, and time

    @rule(dice=st.integers(0, 15))
    def cancel(self, dice: int) -> None:
        record = self.records.get(OWNER, self.batch)
        assert record is not None
        if dice == 7 and not record.ended:
            self.asked_to_cancel = True
            self.records.ask_to_cancel(record)

    @rule(dice=st.integers(0, 15))
    def let_its_window_pass(self, dice: int) -> None:
        if dice == 7:
            self.now = T0 + WINDOW_S + 1.0
            self.expired = True

    # ---- what always holds

    @invariant()
    def no_line_is_answered_twice(self) -> None:
        if hasattr(self, "batch"):
            said = [one["custom_id"] for one in self.said()]
            assert len(said) == len(set(said))

    @invariant()
    def nothing_runs_twice(self) -> None:
        if hasattr(self, "batch"):
            assert not [line for line, times in self.runs.items() if times > 1]

    @invariant()
    def no_more_is_under_way_than_may_be(self) -> None:
        if hasattr(self, "batch"):
            waiting = self.loop.run_until_complete(self.client.lrange("batch", 0, -1))
            ids = {json.loads(raw)["headers"]["id"] for raw in waiting}
            unfinished = [
                one for one in ids
                if not read_state(self.loop.run_until_complete(self.client.get(keys.RESULT % one))).ended
            ]  # fmt: skip
            assert len(unfinished) <= self.in_flight

    def said(self) -> list[dict[str, Any]]:
        """Whole lines in both files."""
        record = self.records.get(OWNER, self.batch)
        assert record is not None
        found = []
        for file_id in (record.output_file_id, record.error_file_id):
            path = self.files.path(OWNER, file_id)
            if path.exists():
                found += [json.loads(raw) for raw in path.read_bytes().split(b"\n")[:-1]]
        return found

    def teardown(self) -> None:
        if hasattr(self, "batch"):
            try:
                self.see_it_through()
            finally:
                self.clear_away()

    def see_it_through(self) -> None:
        """Whatever happened, it ends, and with every line answered once."""
        for _ in range(400):
            if not self.drive():
                break
            self.loop.run_until_complete(self._work(100, failing=False))
        else:
            raise AssertionError("it never ends")
        self.kill()
        record = self.records.get(OWNER, self.batch)
        assert record is not None
        assert record.ended
        assert self.records.unended() == []
        said = self.said()
        assert sorted(one["custom_id"] for one in said) == sorted(
            f"row-{n}" for n in range(1, self.lines + 1)
        )
        good = [one for one in said if one["response"] and one["response"]["status_code"] == 200]
        given_up = {one["error"]["code"] for one in said if one["error"]}
        assert (record.completed, record.failed) == (len(good), len(said) - len(good))
        assert record.output_tokens == len(good)
        expected = {"completed"}
        if self.asked_to_cancel:
            expected.add("cancelled")
        if self.expired:
            expected.add("expired")
        assert record.status in expected
        assert given_up <= {
            "cancelled": {"batch_cancelled"}, "expired": {"batch_expired"}, "completed": set[str](),
        }[record.status]  # fmt: skip
        shown = record.shown()
        for file_id, some in (
            (shown["output_file_id"], good),
            (shown["error_file_id"], len(said) > len(good)),
        ):
            assert bool(file_id) == bool(some)
            assert file_id is None or self.files.get(OWNER, file_id) is not None
        for one in said:
            ran = self.runs[one["custom_id"].replace("row-", "river ")]
            assert ran == (0 if one["error"] else 1)
        for file_id in (record.output_file_id, record.error_file_id):
            path = self.files.path(OWNER, file_id)
            assert not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")

    def clear_away(self) -> None:
        self.kill()
        self.loop.run_until_complete(self.client.flushdb())
        self.loop.run_until_complete(self.client.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def test_a_batch_ends_as_its_owner_was_told(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine(BatchMachine):
        url = redis_url.removesuffix("/0") + "/8"
        folder = tmp_path

    # Every step looks for what Redis lost: with the shipped seconds a run would take minutes.
    monkeypatch.setattr(running, "_SILENCE_S", 0.0)
    monkeypatch.setattr(running, "_LOOK_S", 0.0)
    machine: Any = Machine
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=50,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # so few steps can be read as they are
        ),
    )
