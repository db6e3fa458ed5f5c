"""Seeded faults: fixes that are reverted in the app, and contract violations of the engines. The simulation must find
each of them within 5,000 seeds (`python -m tests.simulation --mutants` prints the table).

Not here: faults below the simulated layers (`BELOW`), which campaigns show. Rules: a mutant changes one
thing, in one place, and puts it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple

from narthex.app import connection
from narthex.app.chat import Chat
from narthex.app.connection_controls import ConnectionControls
from narthex.app.hub import Hub
from narthex.app.hub.channel import Channel
from narthex.app.revocations import Revocations
from narthex.app.runs import local_runs
from narthex.app.runs.journal import Journal
from narthex.app.runs.lease import Lease
from narthex.app.runs.loops import RunLoops
from narthex.app.runs.observed import ObservedLeases
from narthex.app.runs.run_log_state import RunLogState
from narthex.app.staleness import StalenessCheck
from narthex.ports.broker import Position, Published
from tests.simulation.loop import NODE
from tests.simulation.world import World


class Mutant(NamedTuple):
    """A seeded fault.

    Attributes:
        item: item of the issue, or its subject.
        what: a short description.
        app: changes classes of the app while it is entered.
        engine: changes the world before a history begins.
        sql: SQL, and its replacement.
    """

    item: str
    what: str
    app: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    engine: Callable[[World], None] = lambda _: None
    sql: tuple[str, str] | None = None

    def prepare(self, world: World) -> None:
        """Change a world before its history begins."""
        world.database.rewritten = self.sql
        self.engine(world)


def _patched(owner: Any, **values: object) -> Callable[[], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def patch() -> Generator[None]:
        real = {name: getattr(owner, name) for name in values}
        for name, value in values.items():
            setattr(owner, name, value)
        try:
            yield
        finally:
            for name, value in real.items():
                setattr(owner, name, value)

    return patch


async def _nothing(*_: object, **__: object) -> None:
    return None


def _by_wall_clock(
    self: ObservedLeases,
    leases: Any,
    asked_at: float,
    read_at: float,
    ours: Any,
    courtesy_s: float = 0.0,
) -> list[Any]:
    world = _world[0]
    node = next(node for node in world.nodes if node.life == NODE.get())
    return [lease for lease in leases if lease.lease_until <= node.clock.now()]


_world: list[World] = []


def _remember(world: World) -> None:
    _world[:] = [world]


async def _said_of_nothing(self: Chat, key: str, message_id: str, after: object) -> dict[int, object]:
    return {}


async def _always(self: Lease) -> None:
    return None


def _hides_gaps(self: Hub, channel: Channel) -> None:
    channel.last = None


async def _sees_nobody(self: Journal, end: Position, tried: list[bytes]) -> None:
    self.log.top = end


@contextlib.contextmanager
def _all(*patches: Callable[[], contextlib.AbstractContextManager[None]]) -> Generator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch())
        yield


async def _takes_it(self: Journal, published: Published, tried: list[bytes]) -> bytes:
    before = Position(published.offset - 1, published.epoch)
    page = await self._services.broker.history(self._channel, since=before, limit=1)
    return page.publications[0].data


def _lies(*names: str) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        world.log.lies.update(names)

    return prepare


_ZOMBIES: Final = _patched(Lease, hold=_always)
_DUPLICATES: Final = _patched(Journal, _ours=_takes_it, _read_on=_sees_nobody)

MUTANTS: Final[dict[str, Mutant]] = {
    "commands-overtake": Mutant(
        "29",
        "commands about one channel do not wait for each other",
        _patched(connection, subject=lambda _: ""),
    ),
    "messages-by-clock": Mutant(
        "30",
        "messages are ordered by wall clocks",
        sql=("ORDER BY place DESC, created_at", "ORDER BY created_at"),
    ),
    "queue-by-clock": Mutant(
        "30, 41",
        "a thread's queue is ordered by wall clocks",
        sql=("ORDER BY q.queue_place, q.number, q.created_at", "ORDER BY q.created_at"),
    ),
    "leases-by-clock": Mutant(
        "31, 41",
        "another node's lease is judged by the wall clock",
        _patched(ObservedLeases, lapsed=_by_wall_clock),
        _remember,
    ),
    "positions-not-compared": Mutant(
        "37",
        "a node does not compare its positions with the log",
        _patched(StalenessCheck, compare=_nothing),
    ),
    "removals-ignored": Mutant(
        "37",
        "a removed member's subscriptions go on",
        _patched(ConnectionControls, _unsubscribe=lambda *_: None),
    ),
    "tail-lost-in-old-epoch": Mutant(
        "38", "the log loses its tail and keeps its epoch", engine=_lies("keeps its epoch: tail")
    ),
    "purged-in-old-epoch": Mutant(
        "39",
        "the log is purged, restored or recreated and keeps its epoch",
        engine=_lies("keeps its epoch: replaced"),
    ),
    "never-ready": Mutant("40", "a part that could not start once never starts", engine=_lies("starts once")),
    "agent-twice": Mutant(
        "42",
        "whether a run has begun is decided by the log alone",
        _patched(local_runs, _has_begun=lambda _run, replay: bool(replay.seq)),
    ),
    "cancelled-without-end": Mutant(
        "44", "no node looks for cancelled runs without an end", _patched(RunLoops, _close=_nothing)
    ),
    "message-twice": Mutant(
        "45", "a repeated message is not looked for in the log", _patched(Chat, _said_of=_said_of_nothing)
    ),
    "digest-over-a-hole": Mutant(
        "46",
        "a run does not notice that its log is another one",
        lambda: _all(
            _patched(RunLogState, _follows=lambda *_: True), _patched(Journal, _read_on=_sees_nobody)
        ),
    ),
    "number-is-identity": Mutant(
        "46",
        "an event in a replaced log counts as an owner's own if its number is",
        _patched(RunLogState, has=lambda self, event, _: 0 < event["seq"] <= self.seq),
    ),
    "end-unconditional": Mutant(
        "46", "the engine appends wherever its log ends", engine=_lies("appends anywhere")
    ),
    "keys-forgotten": Mutant("port", "a repeated publish is appended again", engine=_lies("forgets keys")),
    "gaps-hidden": Mutant("hub", "a gap in the offsets is not re-read", _patched(Hub, _repair=_hides_gaps)),
    "two-owners-publish": Mutant(
        "runs",
        "neither a lost lease nor another owner's events stop a run",
        lambda: _all(_ZOMBIES, _DUPLICATES),
    ),
    "revoked-stay": Mutant(
        "revocations",
        "a revoked user's connections stay open",
        _patched(Revocations, listen=lambda *_: None),
    ),
}


FENCED: Final[dict[str, Mutant]] = {
    "zombies-publish": Mutant("runs", "a lost lease does not stop a run", _ZOMBIES),
    "duplicates-are-ours": Mutant("runs", "an owner takes another owner's events for its own", _DUPLICATES),
}
"""Faults that no client can see, because each is fenced by the other. An owner without a lease that appends first is
found by the next owner, in the log, before it appends; one that comes second finds the next owner's events and stops;
the store refuses its end. With the lease checked, no owner meets another owner's events. `two-owners-publish` takes
both away (`cut_owner` in the plan makes such owners)."""

BELOW: Final[dict[str, str]] = {
    "37": "the NATS route itself: tests/campaigns (route reset between servers)",
    "38": "who answers for a Redis: tests/campaigns (fail-over and truncation)",
    "39": "limits and purges of a NATS stream: tests/campaigns",
    "40": "connections of the NATS and Redis adapters: tests/campaigns (engines that come late)",
    "43": "how many publications the embedded log keeps: tests/campaigns (a long run and kill -9)",
}
"""Items whose code is in adapters, and the campaign that shows each."""
