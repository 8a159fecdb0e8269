"""Every metric: its name, its unit, one sentence."""

from functools import cache
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

Labelled = TypeVar("Labelled", Counter, Gauge, Histogram)

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

TASKS_STARTED = Counter("kc_tasks_started", "Tasks this worker began to run.", ["task"])
TASKS_ENDED = Counter(
    "kc_tasks_ended",
    "Tasks this worker ended; outcome is 'success', an error's name or 'cancelled'.",
    ["task", "outcome"],
)
TASKS_IN_FLIGHT = Gauge("kc_tasks_in_flight", "Tasks this worker holds right now.")
TASK_SECONDS = Histogram("kc_task_duration_seconds", "From start to answer.", ["task"], buckets=_SECONDS)
QUEUE_SECONDS = Histogram(
    "kc_task_queue_seconds", "From the producer's sent_at to the start.", ["task"], buckets=_SECONDS
)
TTFT_SECONDS = Histogram(
    "kc_time_to_first_token_seconds", "From a task's first model call to its first token.", ["task"],
    buckets=_SECONDS,
)  # fmt: skip
TOKENS = Counter("kc_tokens", "Tokens as the model server counted them.", ["task", "kind"])
BACKEND_CALLS = Counter("kc_backend_requests", "HTTP requests to model servers, retries included.", ["task"])

DATABASE_MISSED = Counter(
    "kc_database_missed", "Things that were not remembered or looked up because the database was away."
)

# What Redis knows of all workers, read when it is asked for; NaN while Redis is away. Every worker shows the
# same figures: take the maximum, not the sum.
QUEUE_WAITING = Gauge("kc_queue_waiting", "Tasks in a queue that no worker has taken.", ["queue"])
QUEUE_OLDEST_SECONDS = Gauge(
    "kc_queue_oldest_seconds",
    "Since the task whose turn is next was sent, or first seen where it does not say; 0 where none waits.",
    ["queue"],
)
RESERVED = Gauge("kc_reserved", "Tasks in the hands of workers.")
RUNNING = Gauge("kc_running", "Of the reserved tasks, those with a model server.")
PARKED = Gauge("kc_parked", "Of the reserved tasks, those that wait for a model server.")
DELAYED = Gauge("kc_delayed", "Tasks that are not due yet: an eta, or a retry.")
SUSPECTS = Gauge("kc_suspects", "Tasks whose worker died with them and that wait to be tried again.")
DEAD = Gauge("kc_dead", "Dead letters.")

# The gateway.
GATEWAY_REQUESTS = Counter("kc_gateway_requests", "Requests answered.", ["method", "route", "status"])
GATEWAY_SECONDS = Histogram(
    "kc_gateway_request_duration_seconds", "From a request's first byte to its answer's first.", ["route"],
    buckets=_SECONDS,
)  # fmt: skip
GATEWAY_OPEN = Gauge("kc_gateway_requests_open", "Requests under way, streams included.")

BATCHES = Gauge("kc_batches", "Batches that have not ended.", ["status"])
BATCH_LINES_LEFT = Gauge("kc_batch_lines_left", "Lines of those batches that have no answer yet.")

# This worker's gate in front of its model servers.
SERVER_READY = Gauge("kc_server_ready", "1 while a model server takes work, else 0.", ["server"])
SERVER_LIMIT = Gauge("kc_server_limit", "Most requests this worker sends a model server at once.", ["server"])
SERVER_IN_FLIGHT = Gauge("kc_server_in_flight", "Requests a model server has of this worker.", ["server"])
GATE_WAITING = Gauge("kc_gate_waiting", "Requests of this worker that wait for a slot of any model server.")


@cache
def of(metric: Labelled, *labels: str) -> Labelled:
    """A metric with its labels filled in, found once: there is a lock and some checking on the way."""
    return metric.labels(*labels)
