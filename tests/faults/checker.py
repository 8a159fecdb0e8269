"""Compares what was submitted, what the model servers saw and what is stored, and names the tasks that disagree."""

import fnmatch
import itertools
import json
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tests.faults.ground import Ground
from tests.faults.parts import RESULT, Run, Submitted

#: Keys that may be there when nothing is under way: results, and what has a TTL or an owner.
MAY_STAY = (
    RESULT + "*",
    "kc:workers",
    "kc:token",
    "kc:turn",
    "kc:sweep",
    "kc:heads",
    "kc:once:*",
    "kc:stream:*",
    "_kombu.binding*",
)
#: A request that the server ends by itself, so that asking again is right.
_SERVERS_FAULT = ("faulted", "server killed")
#: Clocks of two processes read one after the other.
_SLACK_S = 0.25
_MOST_SHOWN = 8


@dataclass
class Verdict:
    """What the checker found.

    Attributes:
        submitted, calls: how many.
        outcomes: how many of each.
        again: tasks whose call was made more than once.
        wrong: by task id ("" for the whole), what is wrong with it.
    """

    submitted: int = 0
    calls: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    again: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def blame(self, task_id: str, what: str) -> None:
        self.wrong.setdefault(task_id, []).append(what)


def check(
    ground: Ground,
    *,
    expected: Collection[str] = ("SUCCESS",),
    most_calls: int | None = None,
    may_stay: Collection[str] = (),
    settle_s: float = 30,
) -> Verdict:
    """Wait until nothing is under way, then hold every task to the promise.

    Args:
        ground: after the fault.
        expected: outcomes that may be.
        most_calls: most chat requests the servers may have seen; None: as many as there were good reasons for.
        settle_s: seconds everything may take to end.

    Raises:
        AssertionError: a task was lost, done twice or ended otherwise, or something was left behind; it names the
            tasks and tells their histories.
    """
    sure = [entry.id for entry in ground.submitted.values() if entry.acknowledged]
    give_up = time.monotonic() + settle_s
    pause_s = max(0.1, len(sure) / 20_000)  # looking costs the workers CPU time
    while len(ground.outcomes(sure)) < len(sure) or left_behind(ground, may_stay):
        if time.monotonic() > give_up:
            break
        time.sleep(pause_s)
    found = _judge(ground, expected)
    if most_calls is not None and found.calls > most_calls:
        found.blame("", f"{found.calls} calls for {found.submitted} tasks, at most {most_calls} were due")
    if left := left_behind(ground, may_stay):
        found.blame("", f"left behind: {left}")
    if found.wrong:
        raise AssertionError(_told(ground, found))
    return found


def left_behind(ground: Ground, may_stay: Collection[str] = ()) -> list[str]:
    """Keys nobody needs any more, but those that match `may_stay`."""
    keys = [key.decode(errors="replace") for key in ground.redis.client.scan_iter(count=1000)]
    return sorted(
        key for key in keys if not any(fnmatch.fnmatchcase(key, may) for may in (*MAY_STAY, *may_stay))
    )[:20]


def dead_letters(ground: Ground) -> set[str]:
    """Ids of the dead letters."""
    return {member.decode() for member in ground.redis.client.zrange("kc:dead", 0, -1)}  # type: ignore[union-attr]


def _judge(ground: Ground, expected: Collection[str]) -> Verdict:
    outcomes, runs, dead = ground.outcomes(), ground.runs(), dead_letters(ground)
    answers = {"answered", "faulted"} if ground.faults_may_answer else {"answered"}
    found = Verdict(len(ground.submitted), sum(map(len, runs.values())), Counter(outcomes.values()))
    for entry in ground.submitted.values():
        mine, outcome = runs.pop(entry.id, []), outcomes.get(entry.id)
        found.again += len(mine) > 1
        for what in itertools.chain(
            _wrong_outcome(ground, entry, outcome, expected), _wrong_calls(ground, entry, mine)
        ):
            found.blame(entry.id, what)
        if entry.id in dead and outcome != "FAILURE":
            found.blame(entry.id, f"a dead letter that ended {outcome}")
        if outcome == "SUCCESS" and not any(run.outcome in answers for run in mine):
            found.blame(entry.id, "SUCCESS without an answer")
    for stranger in runs:
        found.blame(stranger, "a call for a task that nobody submitted")
    return found


def _wrong_outcome(
    ground: Ground, entry: Submitted, outcome: str | None, expected: Collection[str]
) -> Iterator[str]:
    if outcome is None:
        if entry.acknowledged:
            yield "LOST: no outcome is stored"
    elif outcome not in expected:
        yield f"ended {outcome}"
    if len(announced := ground.announcements.outcomes.get(entry.id, [])) > 1:
        yield f"STORED TWICE: {announced}"


def _wrong_calls(ground: Ground, entry: Submitted, runs: list[Run]) -> Iterator[str]:
    if entry.id not in ground.may_run_again:
        for earlier, later in itertools.pairwise(runs):
            if why := _wrongly_again(ground, earlier, later):
                yield why


def _wrongly_again(ground: Ground, earlier: Run, later: Run) -> str:
    """Why a second call should not have been made; "" where it was right."""
    gone = [worker.gone_at for worker in ground.workers if worker.label == earlier.worker]
    if gone and gone[0] is not None and earlier.started_s - _SLACK_S <= gone[0] <= later.started_s + _SLACK_S:
        return ""  # its worker was gone
    if earlier.ended_s is None or earlier.ended_s > later.started_s + _SLACK_S:
        return "TWO CALLS AT A TIME"
    if earlier.outcome in _SERVERS_FAULT:
        return ""
    return f"CALLED AGAIN after a call that {earlier.outcome}, and its worker lived"


def _told(ground: Ground, found: Verdict) -> str:
    kinds = Counter(what.split(":")[0] for task_id, wrong in found.wrong.items() for what in wrong if task_id)
    lines = [
        f"seed {ground.seed}: {found.submitted} submitted, {found.calls} calls, {dict(found.outcomes)}",
        f"{found.again} called more than once; wrong: {dict(kinds)}",
        *found.wrong.get("", []),
        "ends of workers: "
        + ", ".join(
            f"{worker.label} {'lives' if worker.gone_at is None else f'{worker.gone_at - ground.started_s:.3f} s'}"
            for worker in ground.workers
        ),
    ]
    runs = ground.runs()
    for task_id in [one for one in found.wrong if one][:_MOST_SHOWN]:
        lines.append(f"{task_id}: {'; '.join(found.wrong[task_id])}")
        if entry := ground.submitted.get(task_id):
            sure = "acknowledged" if entry.acknowledged else "doubtful"
            lines.append(f"    submitted at {entry.at_s - ground.started_s:.3f} s, {sure}")
        lines += [f"    call {run.told(ground.started_s)}" for run in runs.get(task_id, [])]
        if history := ground.redis.client.hget("kc:history", task_id):
            lines.append(f"    history {json.loads(history)}")  # type: ignore[arg-type]
        if stored := ground.redis.client.get(RESULT + task_id):
            lines.append(f"    stored {stored.decode()[:300]}")  # type: ignore[union-attr]
        lines += [f"    {line}" for line in ground.logs_of(task_id)[-8:]]
    return "\n".join(lines)
