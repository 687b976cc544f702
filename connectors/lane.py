"""A lane: one producer, and in order what waits for room in its queue.

Laws:

1. Messages enter the producer in the order in which they were given; nothing overtakes what waits.
2. After a load that opens, nothing follows before all is answered, and nobody lingers.
3. Whatever becomes of a message, its callback hears of it: from the brokers' report, or at once
   when the producer does not take it.
4. What librdkafka calls while it serves reports only notes down what it is told. An exception there
   would leave reports unserved.

Not here: what becomes of a message that failed (`connectors.returns`).

Source: librdkafka 2.16, INTRODUCTION.md; confluent-kafka 2.16, `Producer`: a fatal error is raised
by `poll` and `flush`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.allocator import without_fastbins
from connectors.kafka_client import built

if TYPE_CHECKING:
    from confluent_kafka import Message

    from core.outgoing import Headers


class Report(Protocol):
    """What hears what became of a message."""

    def __call__(self, error: KafkaError | None, message: Message, /) -> None:
        """Hear the brokers' report, or why there will be none."""

    def refused(self, error: KafkaError, key: bytes | None, value: bytes) -> None:
        """Hear that the producer did not take it."""


ToProduce = tuple[str, bytes, bytes | None, int, Report, None, int, "Headers | None"]
"""A message as `Producer.produce` takes it by position: topic, value, key, partition, callback, a
second name for the callback, time in ms (0 is now) and headers. By position costs a fifth less."""


_NEVER = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "larger than kafka.queue_bytes_max")


@dataclass(slots=True)
class Load:
    """Messages that are sent one after another.

    Attributes:
        topic: Their topic, as `core.topics` has it.
        rows: Records in them.
        messages: The messages; used up on the way.
        ticket: Number of the load; those of a lane rise.
        opens: Whether nothing follows before all that is under way is answered.
    """

    topic: str
    rows: int
    messages: Iterator[ToProduce]
    ticket: int = 0
    opens: bool = False


class Lane:
    """A producer with what waits for it; used by one thread at a time; any may append to `backlog`.

    Args:
        config: Properties of the producer, `error_cb` as `connectors.kafka_client` makes it.
        on_moved: Called with each load that has gone into the producer as a whole.

    Attributes:
        backlog: Loads that wait, the first of them perhaps in part.
        fatal: The error after which the producer takes and delivers nothing, if there was one.

    Raises:
        SettingError: librdkafka refuses the properties.
    """

    def __init__(
        self, config: Mapping[str, Any], on_moved: Callable[[Load], None] = lambda _: None
    ) -> None:
        without_fastbins()
        self.producer = built(Producer, config)
        self.backlog: deque[Load] = deque()
        self._on_moved = on_moved
        self.fatal: KafkaError | None = None
        self._held: ToProduce | None = None
        self._opens = False

    def __len__(self) -> int:
        """Return the messages in the producer, whose reports were not served yet."""
        return len(self.producer)

    def move(self, limit: int | None = None) -> None:
        """Give the producer what there is room for.

        Args:
            limit: Ticket of the last load that may move; `None` for all.
        """
        while self.backlog and (limit is None or self.backlog[0].ticket <= limit):
            if self._opens and len(self):
                return
            load = self.backlog[0]
            self._opens = load.opens
            if not self._push(load.messages):
                return
            self._on_moved(self.backlog.popleft())

    def serve(self, wait_s: float, *, hurry: bool = False) -> None:
        """Serve delivery reports.

        Args:
            wait_s: Longest wait for the first of them; below 0.2, so that signals are heard.
            hurry: Send what lingers, and wait until all is reported.
        """
        try:
            if hurry or (self._opens and wait_s > 0.0):
                self.producer.flush(wait_s)
            else:
                self.producer.poll(wait_s)
        except KafkaException as error:
            self.fatal = error.args[0]

    def purge(self, error: KafkaError) -> None:
        """Give up what waits and what is in the producer; reports of the latter have to be served.

        Args:
            error: What the callbacks of what waits hear.
        """
        while self.backlog:
            load = self.backlog[0]
            rest = load.messages if self._held is None else iter((self._held, *load.messages))
            self._held = None
            for message in rest:
                _refuse(message, error)
            self._on_moved(self.backlog.popleft())
        self.producer.purge(blocking=False)

    def _push(self, messages: Iterator[ToProduce]) -> bool:
        """Produce until the messages or the room end; return whether the former did."""
        produce: Callable[..., None] = self.producer.produce
        message = self._held
        while True:
            try:
                if message is not None:
                    produce(*message)
                for message in messages:
                    produce(*message)
            except BufferError:
                if len(self.producer):
                    self._held = message
                    return False
                # Nothing is in the queue, and yet there is no room: there never will be.
                _refuse(message, _NEVER)
            except KafkaException as error:
                _refuse(message, error.args[0])
            else:
                self._held = None
                return True
            message = None


def _refuse(message: ToProduce | None, error: KafkaError) -> None:
    """Tell the callback of a message that nothing else will be reported of it."""
    if message is not None:
        _, value, key, _, report, *_ = message
        report.refused(error, key, value)
