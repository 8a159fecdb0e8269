"""What a worker and its Redis use."""

from dataclasses import dataclass
from typing import Any, Self

import psutil
import redis


class Processes:
    """A process and all it started.

    Args:
        pid: of the first one.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def all(self) -> list[psutil.Process]:
        """Those that run now."""
        return [self._root, *self._root.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds so far, user and system, of those that still run."""
        times = [process.cpu_times() for process in self.all()]
        return float(sum(time.user + time.system for time in times))

    def rss_mb(self) -> float:
        """Resident memory, MB; what processes share counts for each."""
        return float(sum(process.memory_info().rss for process in self.all())) / 1e6

    def threads(self) -> int:
        """Threads of all of them."""
        return sum(process.num_threads() for process in self.all())


class RedisMeter:
    """A client that knows how much Redis did for others than itself."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self._asked = 0

    def ask(self, *command: Any) -> Any:
        """One command, which is not counted."""
        self._asked += 1
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def count(self, pattern: str) -> int:
        """How many keys match."""
        cursor, found = 0, 0
        while True:
            cursor, keys = self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 50_000)
            found += len(keys)
            if not int(cursor):
                return found

    def counters(self) -> "RedisCounters":
        """What others had it do so far."""
        self._asked += 1
        found = self.client.info("all")
        return RedisCounters(
            commands=found["total_commands_processed"] - self._asked,
            round_trips=found["total_reads_processed"] - self._asked,
            cpu_s=found["used_cpu_user"] + found["used_cpu_sys"],
        )

    def close(self) -> None:
        """Close its connection."""
        self.client.close()


@dataclass(frozen=True, slots=True)
class RedisCounters:
    """What Redis did.

    Attributes:
        commands: commands, those inside scripts included.
        round_trips: times it read from a connection: a pipeline or a script is one.
        cpu_s: CPU seconds.
    """

    commands: int
    round_trips: int
    cpu_s: float

    def __sub__(self, earlier: Self) -> "RedisCounters":
        return RedisCounters(
            self.commands - earlier.commands,
            self.round_trips - earlier.round_trips,
            self.cpu_s - earlier.cpu_s,
        )
