"""Live traces by themselves: who may start one, what ends it, what is sent and kept, what an audit record says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import msgspec
import pytest

from narthex.app.fleet import tracing as module
from narthex.app.fleet.tracing import KEPT, MAX_S, MAX_TRACES, PER_S, Trace, TraceEntry, Tracing
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Control
from narthex.ports.store import AuditRecord
from tests.timing import within


class Line:
    """A connection, as far as a trace looks at it."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.is_closed = False
        self.socket = object()


class Tapped:
    """In place of a tap: keeps the function that takes what was seen."""

    made: ClassVar[list[Tapped]] = []

    def __init__(self, connection: Any, seen: Callable[..., None], *, payloads: bool) -> None:
        self.connection, self.seen, self.payloads = connection, seen, payloads
        self.removed = False
        Tapped.made.append(self)

    def remove(self) -> None:
        """As `Tap.remove`."""
        self.removed = True


class Node:
    """One process's traces: its broker, its records, what its operators are shown."""

    def __init__(self, name: str = "n1", *, allow_payloads: bool = False) -> None:
        self.now = 1_000.0
        self.lines: list[Line] = []
        self.asked: list[str] = []
        self.sent: list[Control] = []
        self.audited: list[AuditRecord] = []
        self.shown: list[tuple[dict[str, Any], str]] = []
        self.fault: Exception | None = None
        self.broker_fault: Exception | None = None
        self.tracing = Tracing(
            name,
            cast("Any", SimpleNamespace(of_user=self._of_user)),
            cast("Any", SimpleNamespace(control=self._control)),
            cast("Any", SimpleNamespace(audit=self._audit)),
            self._show,
            allow_payloads=allow_payloads,
            clock=lambda: self.now,
        )

    def _of_user(self, user: str) -> list[Line]:
        self.asked.append(user)
        return self.lines

    async def _control(self, message: Control) -> None:
        if self.broker_fault is not None:
            raise self.broker_fault
        self.sent.append(message)

    async def _audit(self, record: AuditRecord) -> None:
        if self.fault is not None:
            raise self.fault
        self.audited.append(record)

    def _show(self, event: Mapping[str, object], channel: str) -> None:
        self.shown.append((msgspec.to_builtins(dict(event)), channel))

    async def start(self, **more: Any) -> Trace:
        """Start a trace of ada."""
        asked: dict[str, Any] = {
            "tenant": "a",
            "user": "ada",
            "client": "",
            "seconds": 60.0,
            "payloads": False,
            "by": "op",
        } | more
        return await self.tracing.start_trace(**asked)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for the trace's own looks."""
        async with asyncio.timeout(within(5)):
            while not holds():  # noqa: ASYNC110 - a look of 1 ms has no event
                await asyncio.sleep(0.001)

    def texts(self) -> list[str]:
        """The bodies that operators were shown, in order."""
        return [entry["body"] for event, _ in self.shown for entry in event["entries"]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks every millisecond, and taps that tap nothing."""
    Tapped.made = []
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(module, "Tap", Tapped)


@pytest.mark.parametrize(("asked_s", "runs_s"), [(0.0, 1.0), (1.0, 1.0), (MAX_S, MAX_S), (MAX_S + 1, MAX_S)])
async def test_a_trace_runs_for_a_second_to_ten_minutes(asked_s: float, runs_s: float) -> None:
    """The limit holds for every requested time."""
    node = Node()
    trace = await node.start(seconds=asked_s)
    assert (trace.started_at, trace.until) == (1_000.0, 1_000.0 + runs_s)
    await node.tracing.stop()


async def test_the_start_and_the_end_are_audit_records_and_told_to_all() -> None:
    """The record names who, whom, which connection, whether with payloads, and until when."""
    node = Node(allow_payloads=True)
    trace = await node.start(client="c1", payloads=True)
    assert await node.tracing.end_trace(trace.trace_id)
    await node.until(lambda: len(node.audited) == 2)
    detail = {"by": "op", "client": "c1", "payloads": True, "until": 1_060.0, "trace": trace.trace_id}
    for record, kind in zip(node.audited, ("trace_started", "trace_ended"), strict=True):
        assert (record.kind, record.tenant, record.subject, record.at) == (kind, "a", "ada", 1_000.0)
        assert json.loads(record.detail) == detail
    assert [message.kind for message in node.sent] == ["trace", "trace_end"]
    assert node.sent[0].data == {"trace": msgspec.to_builtins(trace)}
    assert not await node.tracing.end_trace("another")
    await node.tracing.stop()
    assert len(node.audited) == 2


async def test_a_start_that_cannot_be_recorded_is_no_start() -> None:
    """Nothing is traced without its record; an end that cannot be recorded ends all the same."""
    node = Node()
    node.fault = DependencyError("store", "away", "wait")
    with pytest.raises(DependencyError):
        await node.start()
    assert (node.tracing.traces(), node.sent) == ([], [])
    node.fault = None
    trace = await node.start()
    node.fault = DependencyError("store", "away", "wait")
    await node.tracing.stop()
    assert node.tracing.traces() == []
    assert [record.kind for record in node.audited] == ["trace_started"]
    assert node.tracing.entries(trace.trace_id, 0.0) is not None


async def test_the_number_of_traces_is_bounded_and_ended_ones_do_not_count() -> None:
    """One more is refused with 409; entries of the last ended ones can still be read, older ones are forgotten."""
    node = Node()
    first = [await node.start() for _ in range(MAX_TRACES)]
    with pytest.raises(ClientError) as refused:
        await node.start()
    assert (refused.value.code, refused.value.number) == ("too_many_traces", 409)
    await node.tracing.end_trace(first[0].trace_id)
    await node.start()
    assert len(node.tracing.traces()) == MAX_TRACES
    for trace in node.tracing.traces():
        await node.tracing.end_trace(trace.trace_id)
    await node.start()
    known = [node.tracing.entries(trace.trace_id, 0.0) is not None for trace in first]
    assert known == [False, True, True, True, True]
    await node.tracing.stop()


async def test_payloads_need_the_setting_on_every_process() -> None:
    """403 where the trace is asked for; a process that shows none takes no part in another's trace."""
    node = Node()
    with pytest.raises(ClientError) as refused:
        await node.start(payloads=True)
    assert (refused.value.code, refused.value.number) == ("payloads_not_allowed", 403)
    other = Node("n2", allow_payloads=True)
    trace = await other.start(payloads=True)
    node.tracing.control(other.sent[0])
    assert node.tracing.traces() == []
    assert other.tracing.traces() == [trace]
    await other.tracing.stop()


async def test_the_users_connections_are_tapped_once_and_let_go() -> None:
    """All of them, also one that comes later; a closed one, and every one at the end, is let go."""
    node = Node()
    node.lines = [Line("c1"), Line("c2")]
    node.lines[1].is_closed = True
    trace = await node.start()
    await node.until(lambda: len(Tapped.made) == 1)
    node.lines.append(Line("c3"))
    await node.until(lambda: len(Tapped.made) == 2)
    assert set(node.asked) == {"a/ada"}
    assert [tap.connection.client for tap in Tapped.made] == ["c1", "c3"]
    node.lines[0].is_closed = True
    await node.until(lambda: Tapped.made[0].removed)
    assert [tap.removed for tap in Tapped.made] == [True, False]
    await node.tracing.end_trace(trace.trace_id)
    assert [tap.removed for tap in Tapped.made] == [True, True]
    looked = len(node.asked)
    await node.until(lambda: len(node.audited) == 2)
    assert len(node.asked) <= looked + 1, "an ended trace looks for nothing"
    assert node.texts() == [
        "The connection is traced from here.",
        "The connection is traced from here.",
        "The connection is closed.",
        "The trace ended.",
    ]
    assert [event["ended"] for event, _ in node.shown] == [False, False, False, True]
    assert {channel for _, channel in node.shown} == {f"operator:trace-{trace.trace_id}"}
    await node.tracing.stop()


async def test_of_one_connection_only_that_one_is_tapped() -> None:
    """Others of the same user are not."""
    node = Node()
    node.lines = [Line("c1"), Line("c2")]
    await node.start(client="c2")
    await node.until(lambda: Tapped.made)
    assert [tap.connection.client for tap in Tapped.made] == ["c2"]
    await node.tracing.stop()


async def test_a_trace_ends_by_itself_at_its_moment() -> None:
    """Not before it."""
    node = Node()
    await node.start(seconds=10.0)
    node.now += 9.9
    looked = len(node.asked)
    await node.until(lambda: len(node.asked) > looked + 1)
    assert len(node.tracing.traces()) == 1
    node.now += 0.1
    await node.until(lambda: not node.tracing.traces())
    await node.until(lambda: len(node.audited) == 2)
    await node.tracing.stop()


async def test_what_is_seen_goes_to_operators_here_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a rate; the number of those left out follows. Another process shows them, and never its own again."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3_600.0)
    node, other = Node(), Node("n2")
    node.lines = [line := Line("c1")]
    trace = await node.start()
    other.tracing.control(node.sent[0])
    await node.until(lambda: Tapped.made)
    running = node.tracing._running[trace.trace_id]
    for number in range(PER_S + 3):
        Tapped.made[0].seen(line, "in", "rpc", number, "{}")
    await node.tracing._look(running)
    *seen, note = node.shown[-1][0]["entries"]
    assert [entry["size"] for entry in seen if "size" in entry] == list(range(1, PER_S))
    assert len(seen) == PER_S
    assert (note["direction"], note["body"]) == ("note", "3 more messages are not shown.")
    assert seen[1] | {"size": 1} == {
        "at": 1_000.0, "node": "n1", "client": "c1", "direction": "in", "kind": "rpc", "size": 1, "body": "{}",
    }  # fmt: skip
    told = [message for message in node.sent if message.kind == "trace_entries"]
    for message in told:
        wire = msgspec.json.decode(msgspec.json.encode(message), type=Control)
        other.tracing.control(wire)
        before = len(node.shown)
        node.tracing.control(wire)
        assert len(node.shown) == before, "its own entries come back to the sender too"
    assert other.texts() == node.texts()
    await node.tracing._look(running)
    assert len([one for one in node.sent if one.kind == "trace_entries"]) == len(told), (
        "nothing new, nothing sent"
    )
    await node.tracing.stop()
    await other.tracing.stop()
    assert [record.kind for record in other.audited] == [], "the process that started it records its end"


async def test_a_later_reader_gets_the_newest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are kept; those after a moment are asked for."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3_600.0)
    node = Node()
    trace = await node.start()
    running = node.tracing._running[trace.trace_id]
    entries = [TraceEntry(at=float(at), node="n1", direction="in") for at in range(KEPT + 10)]
    node.tracing._publish(running, entries)
    found = node.tracing.entries(trace.trace_id, -1.0)
    assert found is not None
    assert ([found[0][0].at, found[0][-1].at], found[1]) == ([10.0, KEPT + 9.0], True)
    later = node.tracing.entries(trace.trace_id, KEPT + 8.0)
    assert later is not None
    assert [entry.at for entry in later[0]] == [KEPT + 9.0]
    await node.tracing.end_trace(trace.trace_id)
    ended = node.tracing.entries(trace.trace_id, KEPT + 8.0)
    assert ended is not None
    assert not ended[1]
    assert node.tracing.entries("another", 0.0) is None
    await node.tracing.stop()


async def test_a_broker_that_is_away_stops_no_trace_of_this_process() -> None:
    """Its own connections are traced; malformed messages of others are passed over."""
    node = Node()
    node.broker_fault = DependencyError("broker", "away", "wait")
    node.lines = [Line("c1")]
    trace = await node.start()
    await node.until(node.texts)
    begins: list[dict[str, Any]] = [{}, {"trace": {}}, {"trace": {"trace_id": 1}}]
    for data in begins:
        node.tracing.control(Control("trace", data))
    entries: list[dict[str, Any]] = [{}, {"entries": 1}, {"entries": [1]}]
    for data in entries:
        node.tracing.control(Control("trace_entries", {"trace_id": trace.trace_id, "node": "n2"} | data))
    node.tracing.control(Control("trace_end", {"trace_id": "another"}))
    assert node.tracing.traces() == [trace]
    node.tracing.control(Control("trace_end", {"trace_id": trace.trace_id}))
    assert node.tracing.traces() == []
    await node.tracing.stop()
