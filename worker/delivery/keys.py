"""The names of what delivery keeps in Redis, for those who read it; `lua/common.lua` says what each holds."""

HELD = "kc:held"
RUN = "kc:run"
COPIES = "kc:copies:%s"
DELAYED = "kc:delayed"
DELAYED_MESSAGES = "kc:delayed:messages"
DEAD = "kc:dead"
DEAD_ENTRIES = "kc:dead:entries"
WORKERS = "kc:workers"
SUSPECTS = "kc:suspects:%d"
#: Where work is besides the queues.
OTHER_WORK = [DELAYED, *(SUSPECTS % deaths for deaths in range(1, 5))]
RESULT = "celery-task-meta-%s"
STREAM = "kc:stream:%s"
OWNER = "kc:owner:%s"
ENDED = "kc:ended:%s"

#: Task ids are published here when they are cancelled.
CANCEL_CHANNEL = "kc:cancel"

#: As kombu names the list of a queue for each of its four priorities, 0 first (`Channel._q_for_pri`).
PRIORITY_SUFFIXES = ("", "\x06\x163", "\x06\x166", "\x06\x169")


def lists_of(queue: str) -> list[str]:
    """The Redis lists of a queue, the most urgent first."""
    return [queue + suffix for suffix in PRIORITY_SUFFIXES]


def queue_of(list_name: str) -> str:
    """The queue a Redis list belongs to."""
    return list_name.split("\x06", 1)[0]
