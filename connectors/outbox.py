"""The outbox: one producer for all parts of the Kafka sink in this process, and what waits for it.

Laws:

1. A record that was accepted is delivered, dead-lettered, or undelivered; it ends in one of these,
   and never in two. Undelivered is lost where nothing will replay it, and that is said, once.
2. Nobody waits in here for longer than asked for. What finds no room waits in order, the sources
   are asked to pause, and whoever comes by serves reports and moves it on.
3. Nothing overtakes what waits. Records that the brokers refused because of others in their batch
   come later than they should (`connectors.returns`); nothing else changes places.
4. The first message to each partition goes alone (`connectors.openings`); what follows waits.
5. What waits is bounded: by the producer's queue, by what is in the graph when the sources pause,
   and by as much again of what came back.
6. A flush waits for what was sent before it began; what other parts send meanwhile stays behind.

Parts may live on several worker threads. One lock guards the producers; it is held for a slice of a
wait for each of them at most, so that no part waits for the wait of another; who closes holds it
for as long as giving up takes.

Not here: what becomes of a message that failed (`connectors.returns`), encoding (`core.outgoing`),
and when to flush (`connectors.kafka`).

Source: librdkafka 2.16, INTRODUCTION.md, "Idempotent Producer".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError

from connectors.clock import monotonic_ns
from connectors.kafka_client import canonical_name, topic_name
from connectors.lane import Lane, Load
from connectors.openings import Openings
from connectors.parcel import ALONE, FEW, WHOLE, Parcel, messages
from connectors.returns import REASONS, Returns
from connectors.tally import Tally
from core.errors import SinkError

if TYPE_CHECKING:
    from connectors.account import Account, Counts
    from connectors.kafka_client import Trouble
    from connectors.pressure import Pressure
    from core.batches import RecordBatch
    from core.outgoing import Outgoing
    from core.sections import KafkaSettings

PAGE = "outbox"
"""The page of the ledger that all parts share."""
SLICE_S = 0.05
"""Longest wait with the lock held, and between two looks at signals."""
PURGE_S = 5.0
"""Longest wait for reports of what was given up; librdkafka makes them without the brokers."""

_CURE = "see to the brokers"
_ONE_BY_ONE = {"delivery.report.only.error": False, "statistics.interval.ms": 0}
# What goes there was sent before: a topic that is unknown now is not one that is only just made.
# One request at a time: each of these producers begins anew (`connectors.openings`).
_AGAIN = _ONE_BY_ONE | {"topic.metadata.propagation.max.ms": 2_000, "max.in.flight": 1}
_NARROW = {
    FEW: _AGAIN | {"batch.num.messages": 100, "linger.ms": 5},
    ALONE: _AGAIN | {"batch.num.messages": 1, "linger.ms": 0},
}
_NO_TIME = KafkaError(KafkaError._PURGE_QUEUE, "no time was left")


class Outbox:
    """Sends the messages of all parts, and knows what became of every record.

    Args:
        config: Properties of the producer, from `connectors.kafka_client`.
        settings: Section `kafka` of the settings.
        encode: Makes messages of records, the same each time.
        letter_bytes_max: Largest message that each dead-letter topic takes.
        partitions: How many each topic has.
        recovers: Whether what is undelivered will be replayed.
        pressure: How the sources are made to pause.
        stopping: Set when the run is to end, which leaves a flush `kafka.shutdown_s`.
        on_lost: Called with one line when the first record is lost.
        on_counts: Receives the page of the ledger.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        settings: KafkaSettings,
        encode: Callable[[RecordBatch], Outgoing],
        letter_bytes_max: Mapping[str, int],
        partitions: Mapping[str, int],
        recovers: bool,
        pressure: Pressure,
        stopping: threading.Event,
        on_lost: Callable[[str], None],
        on_counts: Counts,
    ) -> None:
        self._settings, self._recovers = settings, recovers
        self._pressure, self._stopping = pressure, stopping
        self._on_lost, self._on_counts = on_lost, on_counts
        self._trouble: Trouble = config["error_cb"]
        self._where = f"kafka://{config['bootstrap.servers']}"
        self._tally = Tally(lambda name: canonical_name(settings, name))
        self._returns = Returns(
            encode=encode, headers=settings.headers, names=self._name,
            letter_bytes_max=letter_bytes_max, recovers=recovers, tally=self._tally,
        )  # fmt: skip
        # Messages of many records are few: each is reported, because only so are records counted.
        self._is_json = settings.format == "json"
        more = {"stats_cb": self._tally.hear} if self._is_json else _ONE_BY_ONE
        self._config = {**config, **more}
        self._lanes: dict[int, Lane] = {}
        self._partitions, self._openings = partitions, Openings(partitions)
        self._moved = self._settled = 0
        self._told = False
        self._lock = threading.Lock()
        """Of the lanes, of what they report, and of all above."""
        self._tickets = 0
        self._marks: list[int] = []
        self._door = threading.Lock()
        """Of tickets and marks; never held while anything is waited for."""
        pressure.on_relief(self.relieve)

    def open(self) -> None:
        """Make the producer, if there is none.

        Raises:
            SettingError: librdkafka refuses the properties.
        """
        with self._lock:
            if not self._lanes:
                self._lanes[WHOLE] = Lane(self._config, self._on_moved)
                self._openings = Openings(self._partitions)
                self._returns.gives_up = False

    @property
    def occupancy(self) -> int:
        """Messages in the queues of the producers, and events that were not served yet."""
        return sum(len(lane) for lane in list(self._lanes.values()))

    @property
    def backlog(self) -> int:
        """Records that wait for room in them."""
        lanes = list(self._lanes.values())
        return sum(load.rows for lane in lanes for load in list(lane.backlog))

    @property
    def failed(self) -> bool:
        """Whether records are undelivered that will be replayed, so that nothing can be saved."""
        return self._recovers and self._returns.undelivered > 0

    def send(self, out: Outgoing, account: Account) -> None:
        """Take messages, and give the producer what it has room for; never waits.

        Args:
            out: Messages, as `encode` makes them.
            account: Whose they are.
        """
        rows = len(out.batch)
        account.book("accepted", out.topic, rows)
        with self._door:
            self._tally.accepted[out.topic] += rows
            for load in self._loads(out, account):
                self._tickets = load.ticket = self._tickets + 1
                self._lanes[WHOLE].backlog.append(load)
        self._turn(lock_s=0.0, serve_s=0.0)

    def make_room(self) -> None:
        """Wait for room for as long as one write may; ask the sources to pause if there is none."""
        if not self.relieve(self._settings.write_wait_s):
            self._pressure.press()

    def relieve(self, wait_s: float) -> bool:
        """Serve reports and move what waits.

        Args:
            wait_s: Longest wait for room.

        Returns:
            Whether nothing waits for room any more.
        """
        end_ns = monotonic_ns() + int(wait_s * 1e9)
        left_s, serve_s = wait_s, 0.0
        while True:
            self._turn(lock_s=left_s, serve_s=min(serve_s, left_s))
            left_s = max(0.0, (end_ns - monotonic_ns()) * 1e-9)
            is_full = any(lane.backlog for lane in list(self._lanes.values()))
            if not is_full or left_s == 0.0:
                self.report()
                return not is_full
            serve_s = SLICE_S

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent before is delivered or dead-lettered.

        Args:
            timeout_s: Longest wait; `kafka.shutdown_s` when the run is to end.

        Raises:
            SinkError: Something is undelivered, or not known to be delivered.
        """
        is_settled = self._await(timeout_s)
        self.report()
        if self.failed or not is_settled:
            raise self.failure()

    def failure(self) -> SinkError:
        """Return why what was sent since the last flush cannot be saved."""
        missing = self._tally.missing + self._returns.undelivered
        return SinkError(
            f"{self._where}: {missing:,} records were not acknowledged ({self._why()}); nothing "
            f"is lost: {self._trouble.cure(_CURE)}, then the same command goes on from there"
        )

    def close(self) -> None:
        """Give up what cannot be delivered within `kafka.shutdown_s`; never raises.

        What will be replayed is not waited for. May be called again, and so may `open`.
        """
        if not self._lanes:
            return
        if not self._recovers:
            self._await(self._settings.shutdown_s)
        with self._lock:
            self._give_up()
            self._lanes.clear()
            touched = self._returns.touched()
        self._tell(touched)
        self.report()

    def report(self) -> None:
        """Hand on how much was delivered, and what waits."""
        gauges = {
            "producer_queue": self.occupancy,
            "producer_queue_max": self._settings.queue_len_max,
            "backlog": self.backlog,
        }
        self._on_counts(PAGE, self._tally.page() | gauges)

    def _name(self, topic: str) -> str:
        return topic_name(self._settings, topic)

    def _reports(self, out: Outgoing, account: Account) -> Iterable[Parcel]:
        """Return what hears of each message."""
        if self._is_json:
            return repeat(Parcel(self._returns, account, out.batch, WHOLE, out.topic))
        return [
            Parcel(self._returns, account, out.batch, WHOLE, out.topic, first, rows)
            for first, rows in zip(out.first_row, out.rows, strict=True)
        ]

    def _loads(self, out: Outgoing, account: Account) -> Iterable[Load]:
        """Yield messages as they are sent, those before the others that have to go alone."""
        rows = len(out.batch)
        rest = messages(out, self._name(out.topic), self._reports(out, account))
        if alone := self._openings.first(out):
            every = dict(enumerate(rest))
            first, rest = iter([every.pop(each) for each in alone]), iter(every.values())
            opening = sum(out.rows[each] for each in alone)
            rows -= opening
            yield Load(out.topic, opening, first, opens=True)
        yield Load(out.topic, rows, rest)

    def _turn(self, *, lock_s: float, serve_s: float, hurry: bool = False) -> None:
        """Serve reports, deal with what came back, and move what waits.

        Args:
            lock_s: Longest wait for another thread that is doing the same.
            serve_s: Longest wait for a report.
            hurry: Send what lingers.
        """
        if not self._lock.acquire(timeout=lock_s):
            return
        try:
            self._serve(serve_s, hurry=hurry)
            self._move()
            if self._lanes and not self._returns and not self.occupancy:
                self._settle()
            touched = self._returns.touched()
        finally:
            self._lock.release()
        self._tell(touched)

    def _serve(self, wait_s: float, *, hurry: bool = False) -> None:
        """Serve reports of all lanes; wait where something is under way."""
        for lane in self._lanes.values():
            lane.serve(wait_s if len(lane) else 0.0, hurry=hurry)
        self._tally.learn()

    def _move(self) -> None:
        """Send what came back, then what waits."""
        whole = self._lanes.get(WHOLE)
        if whole is None:
            return
        with self._door:
            limit = max(self._marks, default=None)
        while True:
            for number, load in self._returns.sorted_out():
                self._lane(number).backlog.append(load)
            narrow = [lane for lane in self._lanes.values() if lane is not whole]
            for lane in narrow:
                lane.move()
            # What is refused has to find room first, or there would be no end to it.
            if not any(lane.backlog for lane in narrow):
                whole.move(limit)
            if not self._returns:
                return

    def _on_moved(self, load: Load) -> None:
        self._moved = load.ticket
        self._tally.moved[load.topic] += load.rows

    def _lane(self, number: int) -> Lane:
        """Return a lane; make one that is not there yet."""
        if number not in self._lanes:
            self._lanes[number] = Lane({**self._config, **_NARROW[number]})
        return self._lanes[number]

    def _settle(self) -> None:
        """Take note that nothing is under way."""
        self._settled = self._moved
        self._tally.settle()
        if not self._returns.undelivered:  # what was complained of is over
            self._trouble.forget()

    def _await(self, timeout_s: float) -> bool:
        """Wait until what was sent before is settled, or something is undelivered; tell which."""
        with self._door:
            mark = self._tickets
            self._marks.append(mark)
        end_ns = monotonic_ns() + int(timeout_s * 1e9)
        is_stopping = False
        try:
            while True:
                self._turn(lock_s=SLICE_S, serve_s=SLICE_S, hurry=True)
                if self._settled >= mark or self.failed:
                    return self._settled >= mark
                if self._stopping.is_set() and not is_stopping:
                    is_stopping = True
                    last_ns = monotonic_ns() + int(self._settings.shutdown_s * 1e9)
                    end_ns = min(end_ns, last_ns)
                if monotonic_ns() >= end_ns:
                    return False
        finally:
            with self._door:
                self._marks.remove(mark)

    def _give_up(self) -> None:
        """Count as undelivered whatever is left; librdkafka reports what it has of it."""
        self._returns.give_up()
        for lane in self._lanes.values():
            lane.purge(_NO_TIME)
        end_ns = monotonic_ns() + int(PURGE_S * 1e9)
        while self.occupancy and monotonic_ns() < end_ns:
            self._serve(SLICE_S)
        if not self.occupancy:
            self._settle()
        elif not self._recovers:
            self._tally.write_off()

    def _why(self) -> str:
        """Return the cause of what is undelivered, as far as it is known."""
        for lane in self._lanes.values():
            if lane.fatal is not None:
                return self._trouble.text(lane.fatal)
        topic, error = self._returns.cause or ("", None)
        if error is not None and (error.code() > 0 or error.code() in REASONS):
            return f"{self._name(topic)}: {self._trouble.text(error)}"
        # What is left are librdkafka's own codes: what the system told it says more.
        return self._trouble.cause(error or "no answer in time")

    def _tell(self, touched: Iterable[Account]) -> None:
        """Report accounts that were booked on; say it when the first record is lost."""
        for account in touched:
            account.report()
        topic = self._returns.lost_topic
        if topic and not self._told:
            self._told = True
            self._on_lost(
                f"{self._where}: records of {self._name(topic)} could not be delivered "
                f"({self._why()}) and are LOST; {self._trouble.cure(_CURE)}; with --recovery "
                "the next run would deliver them"
            )
