"""A batch of many lines: flat memory, and kills of everything that has a part in it."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import psutil
import pytest

from tests.faults.ground import Ground
from tests.faults.parts import FaultyWorker
from tests.faults.scale import scaled
from worker.local.child import free_port
from worker.local.gateway import LocalGateway

LINES, KILLS = scaled(3_000, 100_000), scaled(4, 20)
ENDED = {"completed", "failed", "cancelled", "expired"}
MiB = 2**20


@dataclass
class Batching:
    """A gateway that can be killed and comes back with the same files, and one batch of it.

    Attributes:
        done_at: what was answered when something was killed: (time.monotonic(), ids of the tasks).
    """

    ground: Ground
    port: int = field(default_factory=free_port)
    gateway: LocalGateway | None = None
    batch: str = ""
    done_at: list[tuple[float, set[str]]] = field(default_factory=list)

    def start(self) -> LocalGateway:
        files = self.ground.folder / "files"
        number = len(list(self.ground.folder.glob("gateway-*")))
        self.gateway = LocalGateway(
            self.ground.redis.url, port=self.port, env={"FILES_DIR": str(files)},
            directory=self.ground.folder / f"gateway-{number}",
        )  # fmt: skip
        self.gateway.wait_ready()
        return self.gateway

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=60
        )

    def submit(self, lines: int) -> None:
        path = self.ground.folder / "in.jsonl"
        with path.open("w") as file:
            for number in range(lines):
                body = {"messages": [{"role": "user", "content": f"word {number}"}], "max_tokens": 9}
                line = {
                    "custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body,
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
        with self.client as client, path.open("rb") as file:
            uploaded = client.files.create(file=file, purpose="batch")
            self.batch = client.batches.create(
                input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
            ).id

    def look(self) -> Any:
        """The batch, None while the gateway is away."""
        with contextlib.suppress(openai.APIConnectionError, openai.APIStatusError), self.client as client:
            return client.batches.retrieve(self.batch)
        return None

    def feeder(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            assert self.gateway is not None
            for child in psutil.Process(self.gateway.pid).children(recursive=True):
                if "feed" in child.cmdline():
                    return child
        return None

    def answered(self) -> set[str]:
        """Ids of the tasks whose answers are on the disk now."""
        return {
            json.loads(raw)["response"]["request_id"]
            for path in (self.ground.folder / "files").rglob("*.data")
            for raw in path.read_bytes().split(b"\n")[:-1]
            if raw.startswith(b'{"id": "batch_req_')
        }

    def remember(self) -> None:
        self.done_at.append((time.monotonic(), self.answered()))

    def check(self, lines: int) -> None:
        """Every line answered once, under its id, with its own answer; nothing that was done ran again."""
        with self.client as client:
            batch = client.batches.retrieve(self.batch)
            assert batch.status == "completed", batch
            output = client.files.content(batch.output_file_id).text.splitlines()
            errors = (
                client.files.content(batch.error_file_id).text.splitlines() if batch.error_file_id else []
            )
        assert errors == []
        assert (batch.request_counts.completed, batch.request_counts.total) == (lines, lines)
        answers = [json.loads(raw) for raw in output]
        assert len(answers) == lines
        assert {one["custom_id"] for one in answers} == {f"row-{number}" for number in range(lines)}
        for one in answers:
            said = one["response"]["body"]["choices"][0]["message"]["content"]
            assert said == one["custom_id"].replace("row-", "word ")
        runs = self.ground.runs()
        for at, done in self.done_at:
            again = [one for one in done for run in runs[one] if run.started_s > at]
            assert not again, f"{len(again)} lines ran again that were done"
        print(Counter(len(some) for some in runs.values()))


@pytest.fixture
def batching(ground: Ground) -> Iterator[Batching]:
    found = Batching(ground)
    found.start()
    yield found
    if found.gateway is not None:
        found.gateway.stop()


def work(ground: Ground) -> FaultyWorker:
    return ground.work(
        ready=False, WORKER_LEASE_S=scaled(2.0, 5.0), WORKER_CONCURRENCY=256, TASK_MAX_DELIVERIES=100
    )


def test_a_long_batch_takes_no_memory(ground: Ground, batching: Batching) -> None:
    """As many lines as anybody sends in a night: worker, gateway and what drives it stay as they were."""
    ground.serve(latency_s=0.1, slots=256, keep=10)
    worker = work(ground)
    worker.wait_ready()
    batching.submit(LINES)
    feeder, gateway = batching.feeder(), batching.gateway
    assert feeder is not None
    assert gateway is not None
    parts = {"worker": worker.pid, "gateway": gateway.pid, "feeder": feeder.pid}
    seen: dict[str, list[float]] = {name: [] for name in parts}
    while (batch := batching.look()).status not in ENDED:
        if batch.request_counts.completed > LINES / 5:  # each has seen all of its code by then
            for name, pid in parts.items():
                seen[name].append(psutil.Process(pid).memory_info().rss / MiB)
        time.sleep(scaled(0.05, 1))
    batching.check(LINES)
    for name, sizes in seen.items():
        print(f"{name}: {sizes[0]:.1f} to {sizes[-1]:.1f} MiB, at most {max(sizes):.1f}")
        assert max(sizes) - sizes[0] < 20, name
    used = ground.redis.client.info("memory")["used_memory"] / MiB  # type: ignore[index]
    print(f"Redis: {used:.1f} MiB, {ground.redis.client.dbsize()} keys")
    assert used < 5 + LINES / 2000, "what is written down does not stay in Redis"


def test_a_batch_survives_the_death_of_everything(ground: Ground, batching: Batching) -> None:
    """Kill -9 of feeder, worker, gateway and Redis, at random: every line once, none that is done again."""
    server = ground.serve(latency_s=0.1, slots=256, keep=10)
    crew = [work(ground)]
    crew[0].wait_ready()
    batching.submit(LINES)
    victims = ["feeder", "worker", "gateway", "redis"] * (KILLS // 4)
    ground.random.shuffle(victims)
    for number, victim in enumerate(victims):
        share = (number + ground.random.random()) / (KILLS + 1)
        ground.wait(f"{share:.0%} of the lines", lambda: _completed(batching) >= share * LINES, 600)  # noqa: B023
        print(f"{time.monotonic() - ground.started_s:.1f} s: {victim} at {share:.0%}")
        match victim:
            case "feeder":
                if feeder := batching.feeder():
                    feeder.kill()
            case "worker":
                crew[-1].kill()
                crew.append(work(ground))
            case "gateway":
                assert batching.gateway is not None
                batching.gateway.process.kill()
                batching.gateway.stop()
                batching.start()
            case "redis":
                ground.redis.kill()
                time.sleep(ground.random.uniform(0, 2))
                ground.redis.start()
        batching.remember()
    ground.wait("the end of the batch", lambda: (one := batching.look()) and one.status in ENDED, 600, 0.3)
    batching.check(LINES)
    assert server.runs()


def _completed(batching: Batching) -> int:
    batch = batching.look()
    return batch.request_counts.completed if batch else 0
