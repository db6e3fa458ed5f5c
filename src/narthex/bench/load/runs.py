"""Many runs at once, two sockets each; every event is read, put in order and verified by its digest.

Rules: nothing is sampled: each of the two sockets of each run is checked to the last event; an event that is
late by the wall clock counts, whatever the cause.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from narthex.bench.load.dialects import BenchTarget, ServerDialect
from narthex.bench.load.measuring import Measurement
from narthex.bench.load.sockets import ClientPool, ClientSocket, received
from narthex.bench.load.wire import PONG_FRAME, command, frames
from narthex.bench.results import Figure, latencies
from narthex.domain.digest import Digest
from narthex.protocol.client import Ping, Push, Reply, StreamPosition, decode_messages

SETTLES_S: Final = 20.0  # after the last delta is due: a gateway that needs longer has fallen behind for good


class Follower:
    """One socket that follows one run."""

    __slots__ = (
        *("buffer", "client", "deltas", "digest", "ended", "fault", "first_at", "first_deltas"),
        *("last", "last_at", "run_id"),
    )

    def __init__(self, client: ClientSocket) -> None:
        self.client = client
        self.buffer = bytearray()
        self.digest = Digest()
        self.last = 0
        self.deltas = self.first_deltas = 0
        self.first_at = self.last_at = 0.0
        self.run_id = ""
        self.ended = False
        self.fault = ""

    def take(self, event: dict[str, Any], lags: list[tuple[float, float]]) -> None:
        """Take one publication; those of other runs and of users are ignored."""
        if event.get("runId") != self.run_id or self.ended:
            return
        last = event["seq"]
        if last <= self.last:
            return
        if event.get("seq_from", last) != self.last + 1:
            self.fault = self.fault or f"event {self.last + 1} is missing"
        self.last = last
        self.digest.feed(event)
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            self.deltas += event["delta"].count(" ")  # each ends with one; joined ones count each
            self.last_at = time.monotonic()
            if not self.first_at:
                self.first_at, self.first_deltas = self.last_at, self.deltas
            made_ns = int(event["delta"].split(" ", 1)[0])  # of the oldest delta in it
            lags.append((made_ns / 1e9, (time.monotonic_ns() - made_ns) / 1e9))
        elif event["type"] in ("RUN_FINISHED", "RUN_ERROR"):
            self.ended = True
            if event["type"] == "RUN_ERROR":
                self.fault = self.fault or f"RUN_ERROR {event.get('code', '')}"
            elif event["count"] != self.last or event["digest"] != self.digest.value():
                self.fault = self.fault or "count or digest differ"


_Pair = tuple[Follower, ...]
"""The two sockets of a run: the first one starts it."""


def runs(target: BenchTarget, *, count: int, rate: int, seconds: int) -> Figure:
    """`count` runs whose agents yield `rate` deltas a second for `seconds`; an operation is one event delivered."""
    dialect = ServerDialect(target)
    with ClientPool(dialect) as crowd:
        crowd.grow([f"runs-{i}" for i in range(count) for _ in range(2)])
        crowd.drain()
        by_user: dict[str, list[ClientSocket]] = {}
        for client in crowd.clients.values():
            by_user.setdefault(client.subject, []).append(client)
        pairs = [tuple(map(Follower, clients)) for clients in by_user.values() if len(clients) == 2]
        lags: list[tuple[float, float]] = []
        with Measurement(target.pids) as measurement:
            delivered = _follow(crowd, pairs, f"rate={rate} seconds={seconds}", seconds, lags)
        followers = [follower for pair in pairs for follower in pair]
        proven = sum(1 for follower in followers if _proven(follower))
        faults = sorted(
            {follower.fault or "not ended in time" for follower in followers if not _proven(follower)}
        )
        return measurement.figure(
            f"runs-{count}",
            target.name,
            delivered,
            latency=latencies(lags),
            failures=crowd.failures + 2 * count - proven,
            values={
                "proven_sockets": proven,
                "deltas_per_s": _rate(followers),
                "deltas_per_s_asked": count * rate,
                "events_per_run": max((follower.last for follower in followers), default=0),
                "server_cpu_percent": 100 * measurement.server.total / max(0.001, measurement.wall_s),
                "took_s": measurement.wall_s,
            },
            notes=[*crowd.why(), *faults[:4]],
        )


def _rate(followers: list[Follower]) -> float:
    """Deltas a second that arrived: the sum of every run's own rate, each run by its faster socket."""
    by_run: dict[str, float] = {}
    for follower in followers:
        took_s = follower.last_at - follower.first_at
        if took_s > 0:  # the text of the first event was not made in that time
            rate = (follower.deltas - follower.first_deltas) / took_s
            by_run[follower.run_id] = max(by_run.get(follower.run_id, 0.0), rate)
    return sum(by_run.values())


def _proven(follower: Follower) -> bool:
    return follower.ended and not follower.fault


def _follow(
    crowd: ClientPool, pairs: list[_Pair], text: str, seconds: int, lags: list[tuple[float, float]]
) -> int:
    """Start every run within the first second, read until all have ended or the time is up; returns deliveries."""
    of: dict[int, tuple[_Pair, Follower]] = {
        follower.client.fd: (pair, follower) for pair in pairs for follower in pair
    }
    began = time.perf_counter()
    deadline = began + 1.0 + seconds + SETTLES_S
    due = iter([(began + index / len(pairs), pair) for index, pair in enumerate(pairs)])
    following = next(due, None)
    open_ends = len(of)
    delivered = 0
    while open_ends:
        now = time.perf_counter()
        if now > deadline:
            break
        while following is not None and following[0] <= now:
            _start(following[1], text)
            following = next(due, None)
        for fd, _ in crowd.poll.poll(0.01 if following is not None else 0.5):
            pair, follower = of[fd]
            data = received(follower.client.sock)
            if not data:
                crowd.idle_read(fd)
                follower.fault = follower.fault or "the socket was closed"
                open_ends -= not follower.ended
                follower.ended = True
                continue
            follower.buffer += data
            was_open = not follower.ended
            for payload in frames(follower.buffer):
                delivered += _read(pair, follower, payload, lags)
            open_ends -= was_open and follower.ended
    return delivered


def _start(pair: _Pair, text: str) -> None:
    params = {"text": text, "client_message_id": uuid.uuid4().hex}
    pair[0].client.sock.send(command(9, "rpc", {"method": "run.start", "data": params}))


def _read(pair: _Pair, follower: Follower, payload: bytes, lags: list[tuple[float, float]]) -> int:
    """Handle one text message: pings, replies and pushes."""
    delivered = 0
    for message in decode_messages(payload):
        if isinstance(message, Push):
            if message.pub is not None and message.channel.startswith("thread:"):
                follower.take(message.pub.data, lags)
                delivered += 1
        elif isinstance(message, Ping):
            follower.client.sock.send(PONG_FRAME)
        elif isinstance(message, Reply):
            delivered += _replied(pair, follower, message, lags)
    return delivered


def _replied(pair: _Pair, follower: Follower, reply: Reply, lags: list[tuple[float, float]]) -> int:
    """The run has started, or a socket has joined its thread and got the missed events; returns delivered events."""
    if reply.error is not None:
        for each in pair:
            each.fault = f"error {reply.error.code} {reply.error.message}"
            each.ended = True
    elif reply.command == "rpc":
        _started(pair, reply.result["data"])
    missed = reply.result.get("publications") or []
    for publication in missed:
        follower.take(publication["data"], lags)
    return len(missed)


def _started(pair: _Pair, answer: dict[str, Any]) -> None:
    """Subscribe both sockets to the thread from its first event on."""
    body = {"channel": answer["channel"], **StreamPosition().recovery}
    for follower in pair:
        follower.run_id = answer["run_id"]
        follower.client.sock.send(command(10, "subscribe", body))
