"""`edge.connections`: which connection is evicted for which, correct counts; and each protocol's end on eviction."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from narthex.adapters.edge.connections import BATCH, PROXY, Connections
from narthex.adapters.edge.limits import EdgeLimits
from narthex.domain.limits import Limits
from tests.adapters.edge.harness import Peer, Running
from tests.timing import within


class Counted:
    """A connection that notes that it was evicted."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.evicted = False

    def evict(self) -> None:
        assert not self.evicted
        self.evicted = True


class Rig:
    """Connections of one table, made by address."""

    def __init__(self, limit: int = 10, per_address: int = 5, proxies: frozenset[str] = frozenset()) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.table: Connections[Counted] = Connections(
            limit,
            per_address,
            proxied=proxies.__contains__,
            evicted=lambda *told: self.told.append(told),
        )

    def arrive(self, address: str, *, busy: bool = False) -> tuple[Counted, bool]:
        """A new connection, and whether it was admitted."""
        one = Counted()
        placed = self.table.add(one, address)
        if busy:
            self.table.busy(one)
        return one, placed


def test_an_address_at_its_limit_displaces_itself() -> None:
    """The oldest idle one is evicted; without an idle one the new one is refused."""
    rig = Rig(per_address=2)
    first, second = (rig.arrive("1.1.1.1")[0] for _ in range(2))
    third, placed = rig.arrive("1.1.1.1")
    assert (placed, first.evicted, second.evicted, rig.told) == (
        True,
        True,
        False,
        [("address", "1.1.1.1", 1)],
    )
    rig.table.busy(second)
    rig.table.busy(third)
    refused, placed = rig.arrive("1.1.1.1")
    assert not placed
    assert rig.table.of_address("1.1.1.1") == 3  # counted until it is removed
    rig.table.remove(refused)
    assert rig.arrive("2.2.2.2")[1]


def test_a_full_process_displaces_the_address_with_most() -> None:
    """However old the connections of others are."""
    rig = Rig(limit=10, per_address=10)
    old, _ = rig.arrive("9.9.9.9")
    flood = [rig.arrive("6.6.6.6")[0] for _ in range(9)]
    _, placed = rig.arrive("1.1.1.1")
    assert placed
    assert not old.evicted
    assert [one.evicted for one in flood[:3]] == [True, True, False]  # a quarter of them, the oldest


def test_a_flood_from_everywhere_displaces_the_oldest() -> None:
    """One connection per address: a batch of those that have waited longest."""
    rig = Rig(limit=200, per_address=5)
    flood = [rig.arrive(f"10.0.{n // 100}.{n % 100}")[0] for n in range(200)]
    assert rig.arrive("1.1.1.1")[1]
    assert [one.evicted for one in flood] == [True] * BATCH + [False] * (200 - BATCH)


def test_a_process_full_of_busy_connections_refuses() -> None:
    """No connection that is being served is evicted."""
    rig = Rig(limit=3)
    busy = [rig.arrive(f"1.1.1.{n}", busy=True)[0] for n in range(3)]
    assert not rig.arrive("2.2.2.2")[1]
    assert not any(one.evicted for one in busy)


def test_behind_a_trusted_proxy_the_forwarded_address_counts() -> None:
    """Unknown until a request names it; the proxy itself has no limit, and is evicted last."""
    rig = Rig(limit=20, per_address=2, proxies=frozenset({"10.0.0.1"}))
    through = [rig.arrive("10.0.0.1")[0] for _ in range(4)]
    assert rig.table.of_address(PROXY) == 4
    placed = [rig.table.reassign(one, "7.7.7.7") for one in through[:2]]
    for one in through[:2]:
        rig.table.busy(one)
    assert placed == [True, True]
    assert not rig.table.reassign(through[2], "7.7.7.7")  # at its limit, without an idle one of its own
    assert rig.table.reassign(through[3], "8.8.8.8")
    rig.table.reassign(through[0], None)
    assert (rig.table.of_address("7.7.7.7"), rig.table.of_address(PROXY)) == (2, 1)
    for one in through:
        rig.table.remove(one)
        rig.table.remove(one)
    assert (len(rig.table), rig.table.of_address("7.7.7.7")) == (0, 0)


def test_the_edge_takes_a_twentieth_more_than_websockets() -> None:
    """Probes, refusals and requests need connections too (docs/operations.md)."""
    limits = EdgeLimits()
    assert limits.connections == limits.connections_per_address == Limits().max_connections * 1.05 == 21_000


def test_an_ipv6_household_is_one_address() -> None:
    """A /64 counts once."""
    rig = Rig(per_address=2)
    for n in range(2):
        rig.arrive(f"2001:db8::{n}", busy=True)
    assert not rig.arrive("2001:db8::ffff")[1]


class Table(RuleBasedStateMachine):
    """Any order of events: counts are right, evicted connections are removed, none is removed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(limit=12, per_address=4, proxies=frozenset({"9.9.9.9"}))
        self.all: list[Any] = []
        self.gone: set[int] = set()

    def live(self) -> list[Any]:
        return [one for one in self.all if not one.evicted and id(one) not in self.gone]

    @rule(
        address=st.sampled_from(["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4", "9.9.9.9"]), busy=st.booleans()
    )
    def arrive(self, address: str, busy: bool) -> None:
        one, placed = self.rig.arrive(address, busy=busy)
        self.all.append(one)
        if not placed:
            self.rig.table.remove(one)
            self.gone.add(id(one))

    @rule(data=st.data(), what=st.sampled_from(["busy", "idle", "remove", "attribute", "between"]))
    def happen(self, data: st.DataObject, what: str) -> None:
        live = self.live()
        if not live:
            return
        one = data.draw(st.sampled_from(live))
        table = self.rig.table
        if what == "attribute":
            table.reassign(one, data.draw(st.sampled_from(["1.1.1.1", "5.5.5.5"])))
        elif what == "between":
            table.reassign(one, None)
        else:
            getattr(table, what)(one)
            if what == "remove":
                self.gone.add(id(one))

    @invariant()
    def adds_up(self) -> None:
        table = self.rig.table
        live = self.live()
        assert len(table) == len(live)
        addresses = ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4", "5.5.5.5", PROXY]
        assert sum(table.of_address(one) for one in addresses) == len(live)
        assert table.waiting() <= len(live) <= 13


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40)


# -- on the wire --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "answer"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"HTTP/1.1 503"),
        (b"GET /get HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200"),
    ],
)
def test_what_an_evicted_client_sees(says: bytes, answer: bytes) -> None:
    """Nothing, an answer to a request that had begun, or the end of a connection that was kept alive."""
    with Running(EdgeLimits(connections=50, connections_per_address=1)) as server, server.peer() as old:
        old.send(says)
        if says.endswith(b"\r\n\r\n"):
            assert old.head().status == 200
        else:
            deadline = time.monotonic() + within(5)
            while server.call(server.edge.connections.waiting) != 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)  # for the half head to be read, which has no event
        with server.peer() as new:
            new.send(b"GET /get HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert new.head().status == 200
        rest = old.rest()
        assert rest.startswith(answer if answer != b"HTTP/1.1 200" else b"")


def test_a_websocket_is_not_evicted() -> None:
    """An open socket is served: the next of its address is refused, with a reason."""
    limits = EdgeLimits(connections=50, connections_per_address=1)
    with Running(limits) as server, server.websocket(), server.peer() as new:
        assert new.head().status == 503


BIG = 4_000_000
UNREAD = EdgeLimits(write_s=1.0)


def ask_much(peer: Peer, *, close: bool = False) -> None:
    """Request an answer that no buffer on the path can hold."""
    connection = "Connection: close\r\n" if close else ""
    head = f"POST /big HTTP/1.1\r\nHost: localhost\r\n{connection}Content-Length: {BIG}\r\n\r\n"
    peer.send(head.encode() + b"x" * BIG)


@pytest.mark.parametrize("close", [False, True])
def test_an_answer_that_nobody_reads_is_dropped(close: bool) -> None:
    """Also if the connection was to be closed behind it: a transport would wait for its buffer for ever."""
    told: list[tuple[str, str, int]] = []
    with Running(UNREAD) as server, server.peer() as peer:
        server.edge.evicted = lambda *one: told.append(one)
        ask_much(peer, close=close)
        deadline = time.monotonic() + within(10)
        while server.edge.open and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.edge.open == 0
        assert len(server.edge.timers) == 0
        assert told == [("unread", "", 1)]
        taken = b""
        with contextlib.suppress(ConnectionResetError):
            taken = peer.rest()
        assert len(taken) < BIG


def test_an_answer_that_is_read_slowly_is_not_dropped() -> None:
    """For longer than `write_s`, with progress in each period."""
    with Running(UNREAD) as server, server.peer() as peer:
        ask_much(peer)
        head = peer.head()
        left = int(head.headers["content-length"])
        while left > 400_000:
            left -= len(peer.exactly(min(left, 400_000)))
            time.sleep(0.3)  # the reader's own slowness is what is tested
        assert peer.exactly(left).endswith(b"x")
        peer.send(b"GET /again HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert peer.head().status == 200


def test_an_unread_answer_makes_way_whatever_its_size() -> None:
    """Behind `Connection: close` too: the rest of a completely written answer depends only on the client."""
    limits = EdgeLimits(connections=50, connections_per_address=50)
    with Running(limits) as server:
        for size in range(20_000, 340_000, 20_000):
            with Peer(server.port, receive_buffer=4_096) as peer:
                head = f"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
                peer.send(head.encode() + b"x" * size)
                deadline = time.monotonic() + within(5)
                while (held := server.call(lambda: (server.edge.open, server.edge.connections.waiting())))[
                    0
                ] != held[1]:
                    assert time.monotonic() < deadline, (size, held)
                    time.sleep(0.01)
            while server.edge.open and time.monotonic() < deadline:
                time.sleep(0.01)


def test_a_pipelined_request_that_is_served_does_not_wait_for_its_client() -> None:
    """The answer before it is not sent yet: the server is still the one to act."""
    with Running(EdgeLimits(connections=50)) as server, server.peer() as peer:
        request = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        peer.send((request.format("/get") + request.format("/stuck")).encode())
        assert peer.head().status == 200
        peer.exactly(len("/get|"))
        assert server.call(server.edge.connections.waiting) == 0
