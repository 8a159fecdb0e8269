"""Every metric: its name, its unit, one sentence."""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

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
