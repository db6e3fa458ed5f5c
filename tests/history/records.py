"""The records of a history: one flat list, in the order in which one observer saw the events.

Rules: `at` and `asked_at` are seconds of the observer's one monotonic clock; `asked_at` is when a command was sent,
`at` when its answer came; `reader` is one device of a user over all its connections, `conn` one connection; `data` is
the decoded JSON of a publication. Every record can be written as JSON (`save`) and read again (`load`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """A publication as a client received it; offset 0: not in the history."""

    offset: int
    data: Any


class Opened(msgspec.Struct, frozen=True, tag=True):
    """A connection of a reader exists."""

    at: float
    conn: str
    reader: str
    user: str


class Connected(msgspec.Struct, frozen=True, tag=True):
    """`connect` was answered with success."""

    at: float
    conn: str
    asked_at: float


class Closed(msgspec.Struct, frozen=True, tag=True):
    """A connection is over; `code` as the client saw it."""

    at: float
    conn: str
    code: int


class Asked(msgspec.Struct, frozen=True, tag=True):
    """A command was sent; `channel` if it names one (`rpc`: the method)."""

    at: float
    conn: str
    id: int
    command: str
    channel: str = ""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """A command was answered; `error` 0 is success."""

    at: float
    conn: str
    id: int
    error: int = 0


class Subscribed(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A client was told that it follows a channel from a position.

    Attributes:
        recover: whether it asked to recover from (`since_epoch`, `since_offset`); an offset of -1 is unknown (a
            push that another client caused; missed publications follow it as live ones).
        epoch: with `offset`: the end of the log that it was told.
        recovered: whether it was told that nothing is missing.
        publications: the publications in the answer.
        server_side: granted in a `connect` answer or by a push.
    """

    at: float
    conn: str
    channel: str
    asked_at: float
    epoch: str
    offset: int
    recover: bool = False
    since_epoch: str = ""
    since_offset: int = 0
    recovered: bool = False
    was_recovering: bool = False
    publications: list[Entry] = []
    server_side: bool = False


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """A live publication reached a connection."""

    at: float
    conn: str
    channel: str
    offset: int
    data: Any


class Unsubscribed(msgspec.Struct, frozen=True, tag=True):
    """A connection no longer follows a channel; `code` 0: at its own request."""

    at: float
    conn: str
    channel: str
    code: int = 0


class Attempted(msgspec.Struct, frozen=True, tag=True):
    """A publication is sent, or sent again, under its idempotency key. Data must be unique."""

    at: float
    key: str
    channel: str
    data: Any


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """A publication was acknowledged at a position."""

    at: float
    key: str
    channel: str
    epoch: str
    offset: int


class Membership(msgspec.Struct, frozen=True, tag=True):
    """A user was added to a channel or removed from it, and that was acknowledged at `at`.

    `channel` "*" is everything: a revoked user, one that was blocked, and one that was unblocked.
    """

    at: float
    asked_at: float
    channel: str
    user: str
    member: bool


class RunStarted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """`run.start` (or `run.resume`) was acknowledged; `asked_at` is when it was first sent."""

    at: float
    asked_at: float
    run_id: str
    channel: str
    user: str = ""
    client_message_id: str = ""
    message_id: str = ""


class AgentBegan(msgspec.Struct, frozen=True, tag=True):
    """An agent's function was called for a run, as the agent itself recorded it."""

    at: float
    run_id: str
    restartable: bool = False


class CancelAcknowledged(msgspec.Struct, frozen=True, tag=True):
    """`run.cancel` was acknowledged with a state."""

    at: float
    run_id: str
    state: str


class RunRead(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A run's state was read (`run.get`). `error` is None where it was not read."""

    at: float
    run_id: str
    state: str
    count: int = 0
    digest: str = ""
    error: str | None = None


class LogRead(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A channel's log was read, ascending. `whole`: it should have everything after `since` up to `offset`."""

    at: float
    asked_at: float
    channel: str
    epoch: str
    offset: int
    publications: list[Entry]
    since: int = 0
    whole: bool = True


class ThreadRead(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A thread's messages were read, oldest first, as (message id, role)."""

    at: float
    asked_at: float
    channel: str
    messages: list[tuple[str, str]]
    whole: bool = False


class Fault(msgspec.Struct, frozen=True, tag=True):
    """A fault began or ended; meanwhile, and for the bound after it, the kinds in `excuses` are not judged."""

    at: float
    name: str
    active: bool
    excuses: list[str] = []


class Restored(msgspec.Struct, frozen=True, tag=True):
    """The store went back to its state at `since`: later writes may be lost, acknowledged or not."""

    at: float
    since: float


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The observation is over; a missing event counts by how long it had been due."""

    at: float


Record = (
    Opened
    | Connected
    | Closed
    | Asked
    | Answered
    | Subscribed
    | Delivered
    | Unsubscribed
    | Attempted
    | Acknowledged
    | Membership
    | RunStarted
    | AgentBegan
    | CancelAcknowledged
    | RunRead
    | LogRead
    | ThreadRead
    | Fault
    | Restored
    | Ended
)
"""Any record."""

_decode = msgspec.json.Decoder(Record).decode


def save(history: Iterable[Record], path: Path) -> None:
    """Write a history as JSON lines."""
    path.write_bytes(b"\n".join(msgspec.json.encode(record) for record in history) + b"\n")


def load(path: Path) -> list[Record]:
    """Read what `save` wrote."""
    return [_decode(line) for line in path.read_bytes().splitlines() if line]
