"""Kombu's Redis transports, their task queues served by `worker.delivery`.

What Celery consumes with acknowledgement comes by the `Inbox`: delivery takes messages in one script, which
kombu does in two steps that lose what is between them, and an acknowledgement does not depend on the channel
a message came by, so a lost connection disturbs nothing that runs. Remote control stays kombu's own.
"""

from typing import Any

from kombu.transport import redis, virtual

from worker.execution.inbox import Inbox


class QoS(virtual.QoS):
    """Hands acknowledgements on; what is in flight is counted for the process, not for the channel."""

    channel: Any
    _on_collect: Any

    def can_consume(self) -> bool:
        """Whether remote control may be read; tasks come by the inbox."""
        return True

    def append(self, message: Any, delivery_tag: str) -> None:
        """Nothing: the message is in the ledger."""

    def ack(self, delivery_tag: str) -> None:
        """The task is over."""
        self.channel.inbox.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The task is over, or goes back to its queue."""
        if requeue:
            self.channel.inbox.reject(delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Nothing: what runs goes on when a channel closes."""
        self._on_collect.cancel()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: leases are recovered by delivery."""


class _Served:
    """Mixed into kombu's channels."""

    QoS = QoS
    inbox: (
        Inbox  #: Of this process; set by `serve`. Kombu makes channels, and shows their options to anybody.
    )
    connection: Any
    _active_queues: list[str]
    _tag_to_queue: dict[str, str]
    _fanout_queues: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._served: set[str] = set()
        super().__init__(*args, **kwargs)

    @property
    def active_queues(self) -> set[str]:
        """The queues kombu reads itself; it asks at every turn of its loop."""
        if len(self._served) == len(self._active_queues):
            return set()
        found = super().active_queues  # type: ignore[misc]
        return {queue for queue in found if queue not in self._served}

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume; a task queue's messages come from the inbox."""
        served = not no_ack and queue not in self._fanout_queues
        if served:
            self._served.add(queue)
        consumer = super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[misc]
        if served:
            self.inbox.open(queue, self.connection._deliver)  # noqa: SLF001 - as kombu's channels call it
        return consumer

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Consume no more."""
        if (queue := self._tag_to_queue.get(consumer_tag)) in self._served and queue is not None:
            self._served.discard(queue)
            self.inbox.shut(queue)
        return super().basic_cancel(consumer_tag)  # type: ignore[misc]

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """How many messages this process may hold."""
        super().basic_qos(prefetch_size, prefetch_count, apply_global)  # type: ignore[misc]
        self.inbox.limit(prefetch_count)


class Channel(_Served, redis.Channel):  # type: ignore[misc]  # it replaces the class of kombu's QoS
    """For one Redis."""


class SentinelChannel(_Served, redis.SentinelChannel):  # type: ignore[misc]
    """For a master that sentinels watch."""


class Transport(redis.Transport):
    """`broker_transport` for redis://, rediss:// and unix://."""

    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    """`broker_transport` for sentinel://."""

    Channel = SentinelChannel


def serve(inbox: Inbox) -> None:
    """Let all channels of this process deliver from this inbox."""
    _Served.inbox = inbox
