"""Records a history: from the frames of WebSocket connections, and from a campaign's own calls.

Rules: frames are parsed here a second time, by docs/protocol.md; a frame that cannot be read is a fault of the caller
and raises; nothing is checked. A recorder belongs to one event loop or thread.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.history.findings import Kind
from tests.history.records import (
    Acknowledged,
    AgentBegan,
    Answered,
    Asked,
    Attempted,
    CancelAcknowledged,
    Closed,
    Connected,
    Delivered,
    Ended,
    Entry,
    Fault,
    LogRead,
    Membership,
    Opened,
    Record,
    Restored,
    RunRead,
    RunStarted,
    Subscribed,
    ThreadRead,
    Unsubscribed,
    save,
)

COMMANDS = (
    *("connect", "subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "rpc"),
    *("refresh", "sub_refresh", "ping", "send"),
)
_decode = msgspec.json.Decoder().decode


class Recorder:
    """One history that is being recorded.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self._records: list[Record] = []
        self._numbers = itertools.count(1)
        self._first_asked: dict[tuple[str, str], float] = {}

    def add(self, record: Record) -> None:
        """Add a record with its time; times never go back."""
        self._records.append(record)

    def history(self) -> list[Record]:
        """The records until now, with an end."""
        return [*self._records, Ended(self.now())]

    def save(self, path: Path) -> None:
        """`history` as JSON lines."""
        save(self.history(), path)

    def connection(self, reader: str, user: str) -> Tap:
        """A new connection of a reader."""
        conn = f"{reader}#{next(self._numbers)}"
        self.add(Opened(self.now(), conn, reader, user))
        return Tap(self, conn, user)

    def first_asked(self, user: str, message: str, at: float) -> float:
        """When a message was first sent: it may be repeated, over several connections."""
        return self._first_asked.setdefault((user, message), at)

    # -- publishing over the server API --------------------------------------------------------------------

    def attempted(self, key: str, channel: str, data: Any) -> None:
        """A publication is about to be sent, or sent again under the same key."""
        self.add(Attempted(self.now(), key, channel, data))

    def acknowledged(self, key: str, channel: str, epoch: str, offset: int) -> None:
        """It was acknowledged."""
        self.add(Acknowledged(self.now(), key, channel, epoch, offset))

    # -- permissions ---------------------------------------------------------------------------------------

    def removed(self, channel: str, user: str, asked_at: float | None = None) -> None:
        """A member's removal was just acknowledged; `channel` "*" for a revocation of everything."""
        now = self.now()
        self.add(Membership(now, now if asked_at is None else asked_at, channel, user, False))

    def granted(self, channel: str, user: str, asked_at: float) -> None:
        """An addition was just acknowledged; it was requested at `asked_at`."""
        self.add(Membership(self.now(), asked_at, channel, user, True))

    # -- reading back --------------------------------------------------------------------------------------

    def run_started(self, asked_at: float, **values: str) -> None:
        """A run was acknowledged elsewhere than on a tapped connection; attributes as in `RunStarted`."""
        self.add(RunStarted(at=self.now(), asked_at=asked_at, **values))

    def agent_began(self, run_id: str, *, restartable: bool = False) -> None:
        """An agent was called for a run; the agent itself reports it (a file, its own counter)."""
        self.add(AgentBegan(self.now(), run_id, restartable))

    def run_read(
        self, run_id: str, state: str, count: int = 0, digest: str = "", error: str | None = None
    ) -> None:
        """A run's state was read elsewhere."""
        read = RunRead(at=self.now(), run_id=run_id, state=state, count=count, digest=digest, error=error)
        self.add(read)

    def log_read(
        self, channel: str, epoch: str, offset: int, publications: Sequence[tuple[int, Any]], asked_at: float
    ) -> None:
        """A whole log was read elsewhere, ascending."""
        entries = [Entry(place, data) for place, data in publications]
        since = entries[0].offset - 1 if entries else offset
        self.add(
            LogRead(
                at=self.now(),
                asked_at=asked_at,
                channel=channel,
                epoch=epoch,
                offset=offset,
                publications=entries,
                since=since,
            )
        )

    def thread_read(self, channel: str, messages: Sequence[tuple[str, str]], asked_at: float) -> None:
        """A whole thread's messages were read elsewhere, oldest first, as (message id, role)."""
        record = ThreadRead(
            at=self.now(), asked_at=asked_at, channel=channel, messages=list(messages), whole=True
        )
        self.add(record)

    # -- faults --------------------------------------------------------------------------------------------

    def fault_began(self, name: str, excuses: Sequence[Kind] = ()) -> None:
        """A fault is active from now on. `fault_ended` with the same name ends it."""
        self.add(Fault(self.now(), name, True, [str(kind) for kind in excuses]))

    def fault_ended(self, name: str) -> None:
        """The fault is over."""
        self.add(Fault(self.now(), name, False))

    def store_restored(self, since: float) -> None:
        """The store just went back to its state at `since`."""
        self.add(Restored(self.now(), since))

    @contextlib.contextmanager
    def fault(self, name: str, excuses: Sequence[Kind] = ()) -> Generator[None]:
        """A fault that is active within the block."""
        self.fault_began(name, excuses)
        try:
            yield
        finally:
            self.fault_ended(name)


class Tap:
    """Turns one connection's frames into records. Times are those of the calls, so call it at once."""

    def __init__(self, recorder: Recorder, conn: str, user: str) -> None:
        self._recorder = recorder
        self.conn = conn
        self.user = user
        self._asked: dict[int, tuple[float, str, dict[str, Any]]] = {}
        self._over = False

    def sent(self, frame: str | bytes) -> None:
        """A frame sent by the client."""
        for command in _objects(frame):
            name = next((name for name in COMMANDS if name in command), "")
            number = int(command.get("id", 0))
            if not name or not number:
                continue
            body = command[name] or {}
            at = self._recorder.now()
            self._asked[number] = (at, name, body)
            if name == "rpc" and (message := str((body.get("data") or {}).get("client_message_id", ""))):
                self._recorder.first_asked(self.user, message, at)
            channel = str(body.get("method" if name == "rpc" else "channel", ""))
            self._recorder.add(Asked(at, self.conn, number, name, channel))

    def received(self, frame: str | bytes) -> None:
        """A frame received by the client; one that it reads after it has dropped the connection does not count."""
        if self._over:
            return
        for found in _objects(frame):
            if "push" in found:
                self._push(found["push"])
            elif "id" in found:
                self._reply(found)

    def closed(self, code: int) -> None:
        """The connection ended; only the first call counts."""
        if not self._over:
            self._over = True
            self._recorder.add(Closed(self._recorder.now(), self.conn, code))

    def _push(self, push: dict[str, Any]) -> None:
        at, channel = self._recorder.now(), str(push.get("channel", ""))
        if "pub" in push:
            publication = push["pub"]
            offset = int(publication.get("offset", 0))
            self._recorder.add(Delivered(at, self.conn, channel, offset, publication["data"]))
        elif "unsubscribe" in push:
            code = int(push["unsubscribe"].get("code", 0)) or 2000
            self._recorder.add(Unsubscribed(at, self.conn, channel, code))
        elif "subscribe" in push:
            told = push["subscribe"]
            since = -1 if told.get("recovered") else 0
            self._recorder.add(
                Subscribed(
                    at=at,
                    conn=self.conn,
                    channel=channel,
                    asked_at=at,
                    epoch=str(told.get("epoch", "")),
                    offset=int(told.get("offset", 0)),
                    recover=bool(told.get("was_recovering")),
                    since_offset=since,
                    recovered=bool(told.get("recovered")),
                    was_recovering=bool(told.get("was_recovering")),
                    server_side=True,
                )
            )
        elif "disconnect" in push:  # transports without a close frame
            self.closed(int(push["disconnect"].get("code", 0)))

    def _reply(self, reply: dict[str, Any]) -> None:
        number = int(reply["id"])
        asked_at, name, body = self._asked.pop(number, (self._recorder.now(), "", {}))
        at = self._recorder.now()
        error = reply.get("error")
        self._recorder.add(Answered(at, self.conn, number, int(error["code"]) if error else 0))
        if error is not None:
            return
        told = reply.get(name) or {}
        if name == "connect":
            self._recorder.add(Connected(at, self.conn, asked_at))
            wanted = body.get("subs") or {}
            for channel, answer in (told.get("subs") or {}).items():
                request = wanted.get(channel) or {}
                self._subscribed(channel, asked_at, request, answer, server_side=True)
        elif name == "subscribe":
            self._subscribed(str(body["channel"]), asked_at, body, told, server_side=False)
        elif name == "unsubscribe":
            self._recorder.add(Unsubscribed(at, self.conn, str(body["channel"])))
        elif name == "history":
            self._history(asked_at, body, told)
        elif name == "rpc":
            self._rpc(asked_at, str(body.get("method", "")), body.get("data") or {}, told.get("data") or {})

    def _subscribed(
        self,
        channel: str,
        asked_at: float,
        request: dict[str, Any],
        answer: dict[str, Any],
        *,
        server_side: bool,
    ) -> None:
        self._recorder.add(
            Subscribed(
                at=self._recorder.now(),
                conn=self.conn,
                channel=channel,
                asked_at=asked_at,
                epoch=str(answer.get("epoch", "")),
                offset=int(answer.get("offset", 0)),
                recover=bool(request.get("recover")),
                since_epoch=str(request.get("epoch", "")),
                since_offset=int(request.get("offset", 0)),
                recovered=bool(answer.get("recovered")),
                was_recovering=bool(answer.get("was_recovering")),
                publications=[
                    Entry(int(found.get("offset", 0)), found["data"])
                    for found in answer.get("publications") or ()
                ],
                server_side=server_side,
            )
        )

    def _history(self, asked_at: float, request: dict[str, Any], told: dict[str, Any]) -> None:
        entries = [Entry(int(found["offset"]), found["data"]) for found in told.get("publications") or ()]
        if request.get("reverse"):
            entries.reverse()
        since = request.get("since") or {}
        offset = int(told.get("offset", 0))
        begins = int(since["offset"]) if since else (entries[0].offset - 1 if entries else offset)
        # A page that was cut by its limit guarantees nothing beyond its last entry.
        top = entries[-1].offset if entries else begins
        self._recorder.add(
            LogRead(
                at=self._recorder.now(),
                asked_at=asked_at,
                channel=str(request["channel"]),
                epoch=str(told.get("epoch", "")),
                offset=offset,
                publications=entries,
                since=begins,
                whole=top == offset and not request.get("reverse"),
            )
        )

    def _rpc(self, asked_at: float, method: str, params: dict[str, Any], told: dict[str, Any]) -> None:
        at = self._recorder.now()
        if method in ("thread.members.add", "thread.members.remove"):
            channel, user = f"thread:{params['thread_id']}", str(params["user_id"])
            self._recorder.add(Membership(at, asked_at, channel, user, method.endswith("add")))
        elif method in ("run.start", "run.resume") and "run_id" in told:
            message = str(params.get("client_message_id", ""))
            first_at = self._recorder.first_asked(self.user, message, asked_at) if message else asked_at
            self._recorder.add(
                RunStarted(
                    at=at,
                    asked_at=first_at,
                    run_id=str(told["run_id"]),
                    channel=str(told.get("channel", "")),
                    user=self.user,
                    client_message_id=message,
                    message_id=str(told.get("message_id", "")),
                )
            )
        elif method == "run.cancel":
            self._recorder.add(CancelAcknowledged(at, str(params["run_id"]), str(told.get("state", ""))))
        elif method == "run.get" and "state" in told:
            self._recorder.add(
                RunRead(
                    at=at,
                    run_id=str(params["run_id"]),
                    state=str(told["state"]),
                    count=int(told.get("count") or 0),
                    digest=str(told.get("digest") or ""),
                    error=told.get("error"),
                )
            )
        elif method == "thread.get" and "messages" in told:
            messages = [(str(found["message_id"]), str(found.get("role", ""))) for found in told["messages"]]
            channel = f"thread:{params['thread_id']}"
            self._recorder.add(ThreadRead(at=at, asked_at=asked_at, channel=channel, messages=messages))


def _objects(frame: str | bytes) -> list[dict[str, Any]]:
    whole = frame.encode() if isinstance(frame, str) else frame
    return [_decode(line) for line in whole.split(b"\n") if line and line != b"{}"]
