"""Whatever workers, producers and operators do to the queues in whatever order: no message is lost, none doubled."""

import asyncio
from dataclasses import dataclass
from typing import Any

import redis
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.delivery import messages
from tests.integration.delivery.ledgers import Clock, Clocked
from tests.integration.delivery.messages import LANES, PRIORITIES, QUEUES
from tests.integration.delivery.view import REMAINS, View
from worker.delivery.ledger import Delivery
from worker.redis_client import RedisAddress

MAX_DELIVERIES = 3
PAUSE_S, GRACE_S = 15.0, 10.0
LEASES_S = {"a": 60.0, "b": 60.0, "c": 120.0}
FINAL = ("SUCCESS", "FAILURE", "REVOKED")
KEPT_S = 86_400
KINDS = ["plain", "plain", "plain", "eta", "eta", "group", "old", "unnamed", "junk"]

picks = st.integers(0, 10_000)
tasks = st.integers(0, 3)
workers = st.sampled_from(sorted(LEASES_S))
somebody_holds = precondition(lambda machine: machine.held)


@dataclass
class Held:
    delivery: Delivery
    worker: str
    lease_until_ms: int


class DeliveryMachine(RuleBasedStateMachine):
    """The model: what is held by whom until when, each task's outcome and deaths, and which messages are over."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = redis.Redis.from_url(url)
        self.redis.flushdb()
        self.client = RedisAddress(url).connect()
        self.clock = Clock()
        self.ledgers = {
            name: Clocked(self.client, name, lease_s, MAX_DELIVERIES) for name, lease_s in LEASES_S.items()
        }
        self.pass_time(0)
        self.id_of: dict[bytes, bytes] = {}
        self.due_ms: dict[bytes, int] = {}
        self.over: set[bytes] = set()
        self.held: dict[str, Held] = {}
        self.tokens: dict[str, str] = {}  # every token there was, and its task
        self.outcomes: dict[str, str] = {}  # what is stored
        self.ended: dict[str, str] = {}  # of that, the final status
        self.deaths: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.swept_ms: int | None = None
        self.not_before_ms = 0
        self.steps = 0
        self.age = 0

    def teardown(self) -> None:
        self.redis.flushdb()
        self.redis.close()
        self.runner.run(self.client.aclose())
        self.runner.close()

    def do(self, coroutine: Any) -> Any:
        self.steps += 1
        self.age += 1
        return self.runner.run(coroutine)

    def name(self, task: int) -> str:
        """Of a few tasks at a time: in the long run most that there were have their outcome."""
        return f"task-{self.age // 5 + task}/é"

    def pass_time(self, seconds: float) -> None:
        self.runner.run(self.clock.forward(self.client, seconds))

    # -- producers and operators ------------------------------------------------------------------------------

    @rule(
        tasks=st.lists(st.tuples(tasks, st.sampled_from(KINDS)), min_size=2, max_size=6),
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from(PRIORITIES),
    )
    def submit(self, tasks: list[tuple[int, str]], queue: str, priority: str) -> None:
        for task, kind in tasks:
            self._submit(task, queue + priority, kind)

    def _submit(self, task: int, list_name: str, kind: str) -> None:
        name: str | None = self.name(task)
        eta_s = 50 * (task - 1)
        match kind:
            case "eta":
                raw = messages.message(name, eta=self.clock.iso(eta_s))
            case "group":
                raw = messages.message(name, group="g")
            case "old":
                raw = messages.old_message(name)
            case "unnamed":
                raw, name = messages.message(), None
            case "junk":
                raw, name = messages.junk(), None
            case _:
                raw = messages.message(name)
        self.redis.lpush(list_name, raw)
        self.due_ms[raw] = self.clock.now_ms + 1000 * eta_s if kind == "eta" else 0
        self.id_of[raw] = name.encode() if name else messages.name_of_nameless(raw)

    @rule(task=tasks)
    def cancel(self, task: int) -> None:
        name = self.name(task)
        value = messages.outcome("REVOKED", name)
        expected = self.ended.get(name) or ("running" if self.live(name) else "waiting")
        assert self.do(self.ledgers["a"].cancel(name, value, KEPT_S)) == expected
        if expected in {"running", "waiting"}:
            self.outcomes[name], self.ended[name] = value, "REVOKED"
            assert self.redis.zscore("kc:delayed", name) in {None, 0}, "it is due, so that it goes"

    @precondition(lambda self: self.redis.exists("kc:dead"))
    @rule(pick=picks)
    def replay(self, pick: int) -> None:
        dead = sorted(View.of(self.redis).dead)
        name = dead[pick % len(dead)].decode()
        assert self.do(self.ledgers["a"].replay(name))
        self.outcomes.pop(name, None)
        self.ended.pop(name, None)
        assert not self.do(self.ledgers["a"].replay(name)), "a second time does nothing"

    # -- workers ----------------------------------------------------------------------------------------------

    @rule(
        worker=workers,
        wanted=st.integers(1, 8),
        spare=st.integers(0, 3),
        lanes=st.sampled_from([LANES, LANES, LANES, [["interactive"]], [["celery"], ["batch"]]]),
        breadth=st.sampled_from([1, 20, 256]),
    )
    def reserve(self, worker: str, wanted: int, spare: int, lanes: list[list[str]], breadth: int) -> None:
        before = View.of(self.redis)
        mine = [held.delivery for held in self.held.values() if held.worker == worker]
        taken = self.do(self.ledgers[worker].take(wanted, lanes, spare=spare, held=mine, breadth=breadth))
        assert len(taken.deliveries) <= wanted
        for found in taken.deliveries:
            self._delivered(worker, found, before)
        ordinary = [found for found in taken.deliveries if not found.deaths]
        if len(lanes) > 1:
            from_last = sum(found.queue in lanes[-1] for found in ordinary)
            assert from_last <= max(0, wanted - spare), "the last lane leaves room"
        after = View.of(self.redis)
        if not taken.more and len(taken.deliveries) < wanted:
            ours = [queue + priority for lane in lanes for queue in lane for priority in PRIORITIES]
            assert not self.redis.exists(*ours), "nothing is overlooked"
        due = min(after.delayed.values(), default=None)
        expected = None if not due else max(0.0, (due - self.clock.now_ms) / 1000)
        assert taken.due_in_s == expected or due == 0

    def _delivered(self, worker: str, found: Delivery, before: View) -> None:
        name = found.task_id
        assert not self.live(name), "one live delivery a task"
        assert all(int(found.token) > int(token) for token in self.tokens), "tokens rise"
        assert self.id_of[found.raw].decode() == name
        history = before.history.get(name.encode(), {"deaths": 0, "tries": 0})
        if name in self.ended:
            assert found.mark == "done", "who is told of an outcome is only told of it"
            assert b'"group": "g"' in found.raw
        else:
            assert (found.deaths, found.tries) == (history["deaths"], history["tries"])
            assert self.due_ms[found.raw] <= self.clock.now_ms, "not before it is due"
            assert found.mark == ("dead" if found.deaths >= MAX_DELIVERIES else "")
        lease_ms = round(LEASES_S[worker] * 1000)
        self.held[found.token] = Held(found, worker, self.clock.now_ms + lease_ms)
        self.tokens[found.token] = name

    @somebody_holds
    @rule(first=picks, count=st.integers(1, 3), stale=st.booleans())
    def acknowledge(self, first: int, count: int, stale: bool) -> None:
        tokens = [*self.some_held(first, count), *self.some_stale(first, int(stale))]
        if not tokens:
            return
        live = [token for token in tokens if token in self.held]
        assert self.do(self.ledgers["a"].acknowledge(tokens)) == len(live)
        for token in live:
            held = self.held.pop(token)
            self.over.add(held.delivery.raw)
            self.forget(held.delivery.task_id)

    @somebody_holds
    @rule(first=picks, count=st.integers(1, 3), stale=st.booleans(), counts=st.booleans())
    def give_back(self, first: int, count: int, stale: bool, counts: bool) -> None:
        tokens = [*self.some_held(first, count), *self.some_stale(first, int(stale))]
        if not tokens:
            return
        live = [token for token in tokens if token in self.held]
        note = {"event": "given back"} if first % 2 else None
        assert self.do(self.ledgers["b"].give_back(tokens, note, counts=counts)) == len(live)
        for token in live:
            name = self.held.pop(token).delivery.task_id
            self.deaths[name] = self.deaths.get(name, 0) + counts

    @somebody_holds
    @rule(pick=picks, delay_s=st.sampled_from([0.0, 3.0, 100.0]), stale=st.booleans())
    def defer(self, pick: int, delay_s: float, stale: bool) -> None:
        for token in self.some_stale(pick, 1) if stale else self.some_held(pick, 1):
            assert self.do(self.ledgers["a"].defer(token, delay_s, {"event": "retry"})) == (not stale)
            if not stale:
                name = self.held.pop(token).delivery.task_id
                self.tries[name] = self.tries.get(name, 0) + 1

    @somebody_holds
    @rule(pick=picks, with_outcome=st.booleans(), stale=st.booleans())
    def bury(self, pick: int, with_outcome: bool, stale: bool) -> None:
        for token in self.some_stale(pick, 1) if stale else self.some_held(pick, 1):
            name = self.tokens[token]
            value = messages.outcome("FAILURE", name) if with_outcome else ""
            done = self.do(self.ledgers["a"].bury(token, "It is of no use.", value, KEPT_S))
            assert done == (not stale)
            if not stale:
                del self.held[token]
                self.forget(name)
                if with_outcome and name not in self.ended:
                    self.outcomes[name], self.ended[name] = value, "FAILURE"

    @somebody_holds
    @rule(
        pick=picks,
        status=st.sampled_from(["SUCCESS", "SUCCESS", "FAILURE", "STARTED", "RETRY"]),
        writer=st.sampled_from(["holder", "holder", "stale", "of another task", "nobody"]),
    )
    def store(self, pick: int, status: str, writer: str) -> None:
        token = next(iter(self.some_stale(pick, 1) if writer == "stale" else self.some_held(pick, 1)), None)
        if token is None:
            return
        name = self.tokens[token]
        if writer == "of another task":
            name = self.name(pick % 4)
        value = messages.outcome(status, name, pick)
        given = "" if writer == "nobody" else token
        said = self.do(self.ledgers["a"].store(name, given, value, KEPT_S))
        if name in self.ended:
            assert said == 0
        elif given and (token not in self.held or self.tokens[token] != name):
            assert said == -1, "a stale writer is refused"
        else:
            assert said == 1
            self.outcomes[name] = value
            if status in FINAL:
                self.ended[name] = status

    @somebody_holds
    @rule(pick=picks, stale=st.booleans())
    def renew(self, pick: int, stale: bool) -> None:
        worker = self.held[self.some_held(pick, 1)[0]].worker
        mine = [token for token, held in self.held.items() if held.worker == worker]
        others = self.some_stale(pick, int(stale))
        lost, cancelled = self.do(self.ledgers[worker].renew([*mine, *others], {"of": worker}, 15))
        assert lost == set(others)
        assert cancelled == {token for token in mine if self.ended.get(self.tokens[token]) == "REVOKED"}
        for token in mine:
            self.held[token].lease_until_ms = self.clock.now_ms + round(LEASES_S[worker] * 1000)

    @somebody_holds
    @rule(worker=workers, known=st.sets(picks, max_size=3))
    def reclaim(self, worker: str, known: set[int]) -> None:
        mine = [token for token, held in self.held.items() if held.worker == worker]
        heard_of = {mine[pick % len(mine)] for pick in known} if mine else set()
        unheard = [token for token in mine if token not in heard_of]
        assert self.do(self.ledgers[worker].reclaim(list(heard_of))) == len(unheard)
        for token in unheard:
            del self.held[token]

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @somebody_holds
    @rule()
    def recover(self) -> None:
        now = self.clock.now_ms
        if self.swept_ms is None or now - self.swept_ms > PAUSE_S * 1000:
            self.not_before_ms = now + round(GRACE_S * 1000)
        self.swept_ms = now
        ended = [token for token, held in self.held.items() if held.lease_until_ms <= now]
        if now < self.not_before_ms:
            ended = []
        assert self.do(self.ledgers["b"].recover(PAUSE_S, GRACE_S)) == len(ended)
        for token in ended:
            name = self.held.pop(token).delivery.task_id
            self.deaths[name] = self.deaths.get(name, 0) + 1

    @precondition(lambda self: self.steps > 30)
    @rule()
    def everything_is_worked_off(self) -> None:
        """One worker with all the time of the world; nothing is left."""
        for name in [found.decode() for found in View.of(self.redis).dead]:
            if name.startswith("task-"):
                assert self.do(self.ledgers["a"].replay(name))
                self.outcomes.pop(name, None)
                self.ended.pop(name, None)
        self.pass_time(1_000)
        self.recover()
        self.pass_time(GRACE_S)
        self.recover()
        assert not self.held
        for _ in range(200):
            if not View.of(self.redis).moving:
                break
            self.reserve("a", 6, 0, LANES, 256)
            assert self.held or not View.of(self.redis).queues, "there is something to do"
            for token, held in list(self.held.items()):
                name = held.delivery.task_id
                if held.delivery.mark == "":
                    value = messages.outcome("SUCCESS", name)
                    assert self.do(self.ledgers["a"].store(name, token, value, KEPT_S)) == 1
                    self.outcomes[name], self.ended[name] = value, "SUCCESS"
            while self.held:
                self.acknowledge(0, 3, stale=True)
            self.check()
        assert not View.of(self.redis).moving, "all of it comes to a worker"
        self.over |= {entry["raw"] for entry in View.of(self.redis).dead_entries.values()}
        self.redis.delete("kc:dead", "kc:dead:entries")
        self.check()
        left = {key for key in View.of(self.redis).keys if key.startswith(b"kc:")}
        assert left <= REMAINS
        assert all(self.redis.ttl(key) > 0 for key in left - {b"kc:workers"})
        self.steps = 0

    # -- what is always true ----------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        view = View.of(self.redis)
        view.check(self.id_of)
        assert {token.decode(): until for token, until in view.lease.items()} == {
            token: held.lease_until_ms for token, held in self.held.items()
        }, "held is what is leased, and as long"
        assert {name.decode(): value.decode() for name, value in view.outcomes.items()} == self.outcomes
        for raw, name in self.id_of.items():
            if raw in self.over:
                assert not view.places[raw], "what is over does not come again"
            elif not view.places[raw]:
                assert name.decode() in self.ended or name in view.dead, "lost"
                self.over.add(raw)
        self._check_histories(view)

    def _check_histories(self, view: View) -> None:
        for name in {*self.deaths, *self.tries}:
            history = view.history.get(name.encode())
            if history is None:
                counted = self.deaths.get(name, 0) + self.tries.get(name, 0)
                assert not counted or name in self.ended, "what happened to a task is kept"
                self.forget(name)
            else:
                assert history["deaths"] == self.deaths.get(name, 0)
                assert history["tries"] == self.tries.get(name, 0)

    def live(self, name: str) -> bool:
        return any(held.delivery.task_id == name for held in self.held.values())

    def forget(self, name: str) -> None:
        self.deaths.pop(name, None)
        self.tries.pop(name, None)

    def some_held(self, first: int, count: int) -> list[str]:
        tokens = sorted(self.held)
        return [tokens[(first + i) % len(tokens)] for i in range(min(count, len(tokens)))]

    def some_stale(self, first: int, count: int) -> list[str]:
        tokens = sorted(set(self.tokens) - set(self.held))
        return [tokens[(first + i) % len(tokens)] for i in range(min(count, len(tokens)))]


def test_whatever_happens_in_whatever_order_no_message_is_lost_and_none_is_doubled(delivery_url: str) -> None:
    # Shrinking takes minutes, and so few steps can be read as they are.
    chosen = settings(
        max_examples=30, stateful_step_count=50, phases=(Phase.explicit, Phase.reuse, Phase.generate)
    )
    run_state_machine_as_test(lambda: DeliveryMachine(delivery_url), settings=chosen)
