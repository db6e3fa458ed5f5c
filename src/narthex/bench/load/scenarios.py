"""Handshakes, echo, fan-out, idle memory and the reconnect storm, each one phase on one target.

Rules: warm up before measuring (a first request pays for imports and caches); every socket of a round
is closed before the round ends, outside of the measurement.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from narthex.bench.cpu import memory
from narthex.bench.load.dialects import MARKER, BenchTarget, ServerDialect
from narthex.bench.load.measuring import Measurement
from narthex.bench.load.publishing import Publisher
from narthex.bench.load.sockets import READ, STALL_S, ClientPool, ClientSocket, received
from narthex.bench.load.wire import CLOSE, PING_FRAME, PONG_FRAME
from narthex.bench.results import Figure, latencies
from narthex.protocol.client import StreamPosition

CHANNEL = "bench"
RECOVERING = "recover:bench"
USER = "bench"
NAP_S: Final = 0.002
"""Pause between two reads of the subscribers' sockets. Each write wakes a reader that waits in epoll and was
too fast for it, and the kernel books the waking on the writer: a cost that grows with the distance between the two
and that no remote reader causes. So the reader sleeps; latencies of a fan-out are accurate to 2 ms."""


def handshakes(target: BenchTarget, *, count: int, in_flight: int) -> Figure:
    """TCP connect to the reply to `connect` (raw: to the 101), then one close handshake each, timed apart."""
    dialect = ServerDialect(target)
    _warm(dialect)
    subjects = [f"{USER}-{i % 500}" for i in range(count)]
    with ClientPool(dialect, role="echo") as crowd:
        with Measurement(target.pids) as opening:
            crowd.grow(subjects, in_flight=in_flight)
        crowd.drain()
        clients = list(crowd.clients.values())
        with Measurement(target.pids) as closing:
            _close_all(crowd, clients)
    done = len(clients)
    return opening.figure(
        "handshakes",
        target.name,
        done,
        latency=latencies(crowd.waits),
        failures=crowd.failures,
        values={"close_cpu_us": closing.server.total * 1e6 / max(1, done)},
        notes=crowd.why(),
    )


def _close_all(crowd: ClientPool, clients: list[ClientSocket]) -> None:
    """A close frame each; the server closes the socket (RFC 6455 section 7.1.1)."""
    waiting = set()
    for client in clients:
        with contextlib.suppress(OSError):
            client.sock.send(CLOSE)
            waiting.add(client.fd)
    while waiting and (ready := crowd.poll.poll(2.0)):
        for fd, _ in ready:
            client = crowd.clients[fd]
            if not received(client.sock):
                waiting.discard(fd)
                crowd.poll.unregister(fd)


def echo(target: BenchTarget, *, sockets: int, count: int, size: int) -> Figure:
    """One message back and forth, one in flight on each of `sockets` sockets."""
    dialect = ServerDialect(target)
    message, end = dialect.echo(b"x" * size)
    with ClientPool(dialect, role="echo") as crowd:
        crowd.grow([f"{USER}-{i}" for i in range(sockets)])
        crowd.drain()
        _echoes(crowd, message, end, max(200, sockets), [])
        times: list[tuple[float, float]] = []
        with Measurement(target.pids) as measurement:
            done = _echoes(crowd, message, end, count, times)
        return measurement.figure(
            f"echo-{sockets}",
            target.name,
            done,
            latency=latencies(times),
            failures=crowd.failures + count - done,
            notes=crowd.why(),
        )


def _echoes(
    crowd: ClientPool, message: bytes, end: bytes, count: int, times: list[tuple[float, float]]
) -> int:
    sent_at: dict[int, float] = {}
    clock = time.perf_counter
    left = count
    for client in list(crowd.clients.values())[:count]:
        sent_at[client.fd] = clock()
        client.sock.send(message)
        left -= 1
    done = 0
    clients = crowd.clients
    while done < count and (ready := crowd.poll.poll(STALL_S)):
        for fd, _ in ready:
            client = clients[fd]
            data = client.sock.recv(READ)
            if not data:
                crowd.idle_read(fd)
                continue
            if not data.endswith(end):
                continue
            times.append((sent_at[fd], clock() - sent_at[fd]))
            done += 1
            if left > 0:
                left -= 1
                sent_at[fd] = clock()
                client.sock.send(message)
    return done


def fanout(target: BenchTarget, *, subscribers: int, in_flight: int, publishes: int, size: int) -> Figure:
    """`in_flight` publications at once to every subscriber; the next ones once all subscribers have all of them.

    An operation is one delivery: one publication at one subscriber. The latency is that of the last subscriber.
    """
    dialect = ServerDialect(target)
    serverside = dialect.serverside
    channel = f"user:{USER}" if serverside else CHANNEL
    with (
        ClientPool(dialect, role="sub", channel="" if serverside or dialect.raw else channel) as crowd,
        contextlib.closing(Publisher(dialect, channel, in_flight)) as publisher,
    ):
        crowd.grow([USER] * subscribers)
        crowd.drain()
        reader = Reader(crowd)
        times: list[tuple[float, float]] = []
        publisher.burst(in_flight, size)
        reader.until(in_flight * len(crowd.clients), publisher)
        reader.received = 0
        bursts = max(1, publishes // in_flight)
        with Measurement(target.pids) as measurement:
            for burst in range(bursts):
                began = time.perf_counter()
                publisher.burst(in_flight, size)
                if not reader.until((burst + 1) * in_flight * len(crowd.clients), publisher):
                    break
                times.append((began, time.perf_counter() - began))
        expected = bursts * in_flight * len(crowd.clients)
        publishing_us = _publish_only(target, publisher, size)
        delivering_us = (measurement.server.total * 1e6 - publishing_us * len(times) * in_flight) / max(
            1, reader.received
        )
        return measurement.figure(
            f"fanout-{subscribers}x{in_flight}",
            target.name,
            reader.received,
            latency=latencies(times),
            failures=crowd.failures + abs(expected - reader.received),
            values={
                "reads_per_delivery": reader.reads / max(1, reader.received),
                "publish_only_cpu_us": publishing_us,
                "delivery_only_cpu_us": delivering_us,
            },
            notes=crowd.why(),
        )


def _publish_only(target: BenchTarget, publisher: Publisher, size: int, count: int = 100) -> float:
    """Server CPU of one publication to a channel without subscribers: the part that is not delivery."""
    if not publisher.answered:
        return 0.0
    publisher.channel = "user:nobody" if publisher.channel.startswith("user:") else "nobody"
    with Measurement(target.pids) as measurement:
        for _ in range(count):
            publisher.burst(1, size)
            publisher.settle()
    return measurement.server.total * 1e6 / count


def publish(target: BenchTarget, *, publishes: int, size: int) -> Figure:
    """Publications over the server API's HTTP, one after the other, to a channel without subscribers."""
    dialect = ServerDialect(target)
    channel = "user:nobody" if dialect.serverside else "nobody"
    times: list[tuple[float, float]] = []
    with contextlib.closing(Publisher(dialect, channel, 1, over_http=True)) as publisher:
        publisher.burst(1, size)
        publisher.settle()
        with Measurement(target.pids) as measurement:
            for _ in range(publishes):
                began = time.perf_counter()
                publisher.burst(1, size)
                publisher.settle()
                times.append((began, time.perf_counter() - began))
        return measurement.figure("publish", target.name, publishes, latency=latencies(times))


class Reader:
    """Counts deliveries by their marker, also one that is split across two reads."""

    def __init__(self, crowd: ClientPool) -> None:
        self._crowd = crowd
        self._tails: dict[int, bytes] = {}
        self.received = 0
        self.reads = 0
        self._socks = {fd: client.sock for fd, client in crowd.clients.items()}
        self._buffer = bytearray(READ)

    def until(self, total: int, publisher: Publisher) -> bool:
        """Read until `total` deliveries have been counted; False when no more bytes come."""
        poll, socks, tails, buffer = self._crowd.poll.poll, self._socks, self._tails, self._buffer
        keep = len(MARKER) - 1
        stalled_at = time.perf_counter() + STALL_S
        while self.received < total:
            time.sleep(NAP_S)
            ready = poll(0)
            if not ready:
                if time.perf_counter() > stalled_at:
                    return False
                continue
            stalled_at = time.perf_counter() + STALL_S
            for fd, _ in ready:
                try:
                    size = socks[fd].recv_into(buffer)
                except OSError:
                    size = 0
                if not size:
                    self._crowd.idle_read(fd)
                    return False
                self.reads += 1
                tail = tails.pop(fd, None)
                if tail is None:
                    self.received += buffer.count(MARKER, 0, size)
                else:
                    self.received += (tail + bytes(buffer[:size])).count(MARKER)
                if buffer[size - 1] != 0x7D:  # ends within a message: the marker holds no `}`
                    tails[fd] = bytes(buffer[max(0, size - keep) : size])
        publisher.settle()
        return True


def idle(target: BenchTarget, *, sockets: int, hold_s: float) -> Figure:
    """Memory of `sockets` authenticated, subscribed sockets of as many users, and the cost of holding them."""
    dialect = ServerDialect(target)
    _warm(dialect)
    channelled = "" if dialect.raw or dialect.serverside else CHANNEL
    with ClientPool(dialect, role="echo", channel=channelled) as first:
        first.grow([f"{USER}-first-{i}" for i in range(min(200, sockets))])
    with ClientPool(dialect, role="echo", channel=channelled) as crowd:
        time.sleep(1.0)  # the server's clean-up of those; memory is read afterwards
        before = memory(target.pids)
        with Measurement(target.pids) as opening:
            crowd.grow([f"{USER}-{i}" for i in range(sockets)], in_flight=100)
        time.sleep(1.0)
        after = memory(target.pids)
        held = len(crowd.clients)
        probe = Probe(crowd, hold_s)
        with Measurement(target.pids) as holding:
            probe.run()
        still = memory(target.pids)
        count = max(1, held)
        return opening.figure(
            f"idle-{sockets}",
            target.name,
            held,
            latency=latencies(probe.waits),
            failures=crowd.failures + sockets - held + probe.unanswered,
            values={
                "uss_kb_per_socket": (after.uss - before.uss) / count / 1000,
                "rss_kb_per_socket": (after.rss - before.rss) / count / 1000,
                "held_uss_kb_per_socket": (still.uss - before.uss) / count / 1000,
                "base_uss_mb": before.uss / 1e6,
                "hold_cpu_percent": 100 * holding.server.total / max(0.001, holding.wall_s),
                "probes_answered": probe.answered,
            },
            notes=[*crowd.why(), *probe.why()],
        )


PROBE_EVERY_S = 0.05


class Probe:
    """An echo every 50 ms on one of many idle sockets: measures how long the server keeps a client waiting.

    Each moment at which a client would have asked counts. While an answer is outstanding the next request cannot be
    sent, so that one stall would be one sample among thousands of quick ones (coordinated omission): each moment that
    passed meanwhile counts with the time from it to the answer. An answer that never came is a failure for every one.

    Attributes:
        waits: one a moment that was answered: the moment, and the seconds until the answer.
        answered: echoes that came back.
        unanswered: moments whose answer never came.
    """

    def __init__(self, crowd: ClientPool, hold_s: float, *, patience_s: float = STALL_S) -> None:
        self._crowd = crowd
        self._hold_s = hold_s
        self._patience_s = patience_s
        self._message, _ = crowd.dialect.echo(b"x" * 32)
        self._client: ClientSocket | None = None
        self._sent: float | None = None
        self.waits: list[tuple[float, float]] = []
        self.answered = 0
        self.unanswered = 0

    def run(self) -> None:
        """Hold the sockets, answering pings, for `hold_s`; then wait for an outstanding answer."""
        clock, clients = time.perf_counter, self._crowd.clients
        end = clock() + self._hold_s
        next_at = clock()
        while (now := clock()) < end or (self._sent is not None and now < end + self._patience_s):
            if not clients:
                break
            if self._sent is None and now >= next_at:
                next_at = now + PROBE_EVERY_S
                self._ask(now)
            owed = self._sent is not None
            for fd, _ in self._crowd.poll.poll(0.005 if owed else max(0.0, min(next_at, end) - now)):
                self._take(fd)
        if self._sent is not None:
            self._give_up(min(clock(), end))
        if not self.answered and not self.unanswered:
            self.unanswered = 1  # nothing was measured, which must not look like success

    def why(self) -> list[str]:
        """The failures, in words."""
        return [f"{self.unanswered} probes got no answer"] if self.unanswered else []

    def _ask(self, now: float) -> None:
        if self._client is None or self._client.fd not in self._crowd.clients:
            self._client = next(iter(self._crowd.clients.values()))
        self._sent = now
        try:
            self._client.sock.send(self._message)
        except OSError:
            self._crowd.idle_read(self._client.fd)
            self._give_up(now)

    def _take(self, fd: int) -> None:
        client = self._crowd.clients.get(fd)
        data = received(client.sock) if client is not None else b""
        if client is None or not data:
            self._crowd.idle_read(fd)
            if self._client is not None and fd == self._client.fd and self._sent is not None:
                self._give_up(time.perf_counter())
        elif data.endswith(PING_FRAME):
            client.sock.send(PONG_FRAME)
        elif client is self._client and self._sent is not None:
            self._answer(time.perf_counter())

    def _answer(self, now: float) -> None:
        assert self._sent is not None
        self.answered += 1
        wait = now - self._sent
        while wait > 0:
            self.waits.append((now - wait, wait))
            wait -= PROBE_EVERY_S
        self._sent = None

    def _give_up(self, until: float) -> None:
        """The answer will not come: every moment from the question on is a failure."""
        assert self._sent is not None
        self.unanswered += 1 + int(max(0.0, until - self._sent) / PROBE_EVERY_S)
        self._sent = None


def storm(target: BenchTarget, *, sockets: int, in_flight: int) -> Figure:
    """Cut every socket at once and reconnect all together, with recovery; measures the time until all are connected."""
    dialect = ServerDialect(target)
    subjects = [f"{USER}-{i % 1000}" for i in range(sockets)]
    channelled = "" if dialect.raw or dialect.serverside else _recovering_channel(dialect)
    with ClientPool(dialect, role="sub", channel=channelled) as before:
        before.grow(subjects, in_flight=100)
    with ClientPool(dialect, role="sub", channel=channelled) as crowd:
        recover, position = _recovery(before)
        with Measurement(target.pids) as measurement:
            crowd.grow(subjects, in_flight=in_flight, recover=recover, position=position)
        done = len(crowd.clients)
        asked = sum(1 for subject in subjects if recover(subject) or position(subject))
        notes = crowd.why()
        if not dialect.raw and asked < sockets:
            notes.append(
                f"{sockets - asked} reconnected without a position: the server keeps no history for them"
            )
        return measurement.figure(
            f"storm-{sockets}",
            target.name,
            done,
            latency=latencies(crowd.waits),
            failures=crowd.failures + before.failures,
            values={"all_back_s": measurement.wall_s, "asked_for_recovery": asked},
            notes=notes,
        )


def _recovering_channel(dialect: ServerDialect) -> str:
    """A channel with history where the server has one (docs/performance.md has the setting), else the plain one."""
    with ClientPool(dialect, role="sub", channel=RECOVERING) as crowd:
        crowd.grow([f"{USER}-look"])
        return RECOVERING if crowd.clients else CHANNEL


def _recovery(
    before: ClientPool,
) -> tuple[Callable[[str], dict[str, StreamPosition] | None], Callable[[str], StreamPosition | None]]:
    """The positions that an SDK sends when it reconnects: those that its last connection had reached.

    The first is for `connect`, where the server subscribes; the second for `subscribe`, where the client does.
    """
    serverside = before.dialect.serverside

    def position(subject: str) -> StreamPosition | None:
        result = before.results.get(subject, {})
        if serverside:
            result = result.get("subs", {}).get(f"user:{subject}", {})
        return StreamPosition(result.get("offset", 0), result["epoch"]) if "epoch" in result else None

    def subs(subject: str) -> dict[str, StreamPosition] | None:
        known = position(subject)
        return {f"user:{subject}": known} if known else None

    return (subs, lambda _: None) if serverside else (lambda _: None, position)


def _warm(dialect: ServerDialect) -> None:
    with ClientPool(dialect, role="echo") as crowd:
        crowd.grow([f"{USER}-warm-{i}" for i in range(50)], in_flight=10)
