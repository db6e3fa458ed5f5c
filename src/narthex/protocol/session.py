"""One connection's protocol state: which commands each phase allows, and the actions that are due. Sans-IO.

Feed it frames and the time; it returns the requests to execute, in order, or raises `SessionFault` with the
disconnect to send. It asks for one timer (`wake_at`) and returns the due action (`due`). Not here: decoding frames
(`codec`), executing requests: the driver (app/connection) does that, and reports back with `connected`,
`failed_connect`, `refreshed`. The driver holds requests that arrive while connecting (batched behind `connect`) until
it has reported.

    phase        connect      any other command   pong     due
    WAITING      → CONNECTING disconnect 3501     3501     silence at `silent_until`
    CONNECTING   3501         request (hold it)   ignored  silence
    LIVE         3501         request             noted    ping, no_pong, expired, life over
    CLOSED       ignored      ignored             ignored  nothing
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from narthex.protocol.codec import JSON, Codec
from narthex.protocol.codes import (
    BAD_FRAME,
    FORCE_RECONNECT,
    NO_PONG,
    STALE,
    TOKEN_LIFE_ENDED,
    TOO_MANY_COMMANDS,
    Disconnect,
)
from narthex.protocol.commands import (
    MAX_JSON_DEPTH,
    Command,
    FrameError,
    PingRequest,
    Request,
    SendRequest,
    request_of,
)

NEVER: Final = float("inf")
LIFE_SLACK_S: Final = 60.0  # how long the end of a busy connection's life may be put off
LIFE_STEP_S: Final = 5.0


class Phase(IntEnum):
    """The phase of a connection."""

    WAITING = 0
    CONNECTING = 1
    LIVE = 2
    CLOSED = 3


class SessionLimits(NamedTuple):
    """Bounds and periods of a session (docs/design.md#limits). Seconds and counts."""

    ping_every_s: float = 25.0
    pong_within_s: float = 10.0
    silence_s: float = 10.0
    expiry_grace_s: float = 25.0
    commands_per_s: float = 60.0
    command_burst: float = 120.0
    json_depth: int = MAX_JSON_DEPTH


class SessionFault(Exception):
    """The peer broke the protocol: close with `disconnect`."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.reason)
        self.disconnect = disconnect


class ReceivedCommand(NamedTuple):
    """A request to execute: `id` 0 wants no reply; `throttled` wants error 111 instead of execution."""

    id: int
    name: str
    request: Request
    throttled: bool = False


class Due(NamedTuple):
    """The due action: send a ping, or close."""

    ping: bool
    disconnect: Disconnect | None


_NOTHING: Final = Due(False, None)
_PING: Final = Due(True, None)


class Session:
    """See the module's table. Times are seconds of one monotonic clock, `expires_at` included."""

    __slots__ = (
        "_bucket",
        "_bucket_at",
        "_codec",
        "_life_ends_at",
        "_life_until",
        "_limits",
        "_next_ping_at",
        "_pong_until",
        "expires_at",
        "phase",
        "silent_until",
    )

    def __init__(self, limits: SessionLimits, now: float, codec: Codec = JSON) -> None:
        self._limits = limits
        self._codec = codec
        self.phase = Phase.WAITING
        self.silent_until = now + limits.silence_s
        self.expires_at = NEVER
        self._next_ping_at = NEVER
        self._pong_until = NEVER
        self._life_ends_at = NEVER
        self._life_until = NEVER
        self._bucket = limits.command_burst
        self._bucket_at = now

    def receive(self, frame: bytes, now: float) -> list[ReceivedCommand]:
        """Requests of one frame, in order.

        Raises:
            SessionFault: nothing of the frame may be executed; close with its disconnect.
        """
        if self.phase is Phase.CLOSED:
            return []
        if frame == self._codec.ping:
            self._pong(now)
            return []
        try:
            commands = self._codec.decode(frame, self._limits.json_depth)
            received = [found for command in commands if (found := self._asked(command, now)) is not None]
        except FrameError as fault:
            raise SessionFault(_bad(fault.reason)) from fault
        return received

    def _asked(self, command: Command, now: float) -> ReceivedCommand | None:
        found = request_of(command)
        if found is None:
            self._pong(now)
            return None
        name, request = found
        if command.id < 0 or (command.id == 0 and not isinstance(request, SendRequest | PingRequest)):
            raise FrameError("a command needs an id above 0")
        if name == "connect":
            if self.phase is not Phase.WAITING:
                raise FrameError("connect was sent already")
            self.phase = Phase.CONNECTING
        elif self.phase is Phase.WAITING:
            raise FrameError("the first command must be connect")
        return ReceivedCommand(command.id, name, request, self._throttled(now))

    def _pong(self, now: float) -> None:
        if self.phase is Phase.WAITING:
            raise SessionFault(BAD_FRAME)
        self._pong_until = NEVER
        self._throttled(now)  # one every ping is expected; others are throttled like any command

    def _throttled(self, now: float) -> bool:
        limits = self._limits
        self._bucket = min(
            limits.command_burst, self._bucket + (now - self._bucket_at) * limits.commands_per_s
        )
        self._bucket_at = now
        self._bucket -= 1.0
        # A client with a bug stops earlier: after a whole burst of ignored 111s it is a flood.
        if self._bucket < -limits.command_burst:
            raise SessionFault(TOO_MANY_COMMANDS)
        return self._bucket < 0

    def connected(
        self,
        now: float,
        *,
        expires_at: float = NEVER,
        first_ping_in_s: float | None = None,
        life_s: float = NEVER,
    ) -> None:
        """The driver sends the connect reply now. `first_ping_in_s` spreads pings of clients that came together;
        after `life_s` the connection is rotated: closed so that its SDK reconnects, maybe to another node.
        """
        self.phase = Phase.LIVE
        self._life_ends_at = now + life_s
        self._life_until = self._life_ends_at + LIFE_SLACK_S
        self.silent_until = NEVER
        self.expires_at = expires_at
        self._next_ping_at = now + (self._limits.ping_every_s if first_ping_in_s is None else first_ping_in_s)

    def failed_connect(self) -> None:
        """The connect was answered with an error that allows another try; `silent_until` keeps running."""
        if self.phase is Phase.CONNECTING:
            self.phase = Phase.WAITING

    def refreshed(self, expires_at: float) -> None:
        """The driver accepted a fresh token of the same subject."""
        self.expires_at = expires_at

    def put_off(self, now: float) -> bool:
        """Postpone the rotation of a busy connection; False when it has been postponed for too long."""
        if now >= self._life_until:
            return False
        self._life_ends_at = min(now + LIFE_STEP_S, self._life_until)
        return True

    def excuse_pong(self, now: float) -> None:
        """The ping is still behind bytes that the client is taking: wait for its pong once more."""
        self._pong_until = now + self._limits.pong_within_s

    def closed(self) -> None:
        """End the session: nothing is due any more, and every frame is ignored."""
        self.phase = Phase.CLOSED

    def wake_at(self) -> float:
        """The time of the next call of `due`."""
        if self.phase is Phase.CLOSED:
            return NEVER
        return min(
            self.silent_until,
            self.expires_at + self._limits.expiry_grace_s,
            self._next_ping_at,
            self._pong_until,
            self._life_ends_at,
        )

    def due(self, now: float) -> Due:
        """The action that is due at `now`; call it again after `wake_at`, and once more after `put_off`."""
        if self.phase is Phase.CLOSED:
            return _NOTHING
        if now >= self.silent_until:
            return Due(False, STALE)
        if now >= self.expires_at + self._limits.expiry_grace_s:
            return Due(False, TOKEN_LIFE_ENDED)
        if now >= self._pong_until:
            return Due(False, NO_PONG)
        if now >= self._life_ends_at:
            return Due(False, FORCE_RECONNECT)
        if now >= self._next_ping_at:
            self._next_ping_at = now + self._limits.ping_every_s
            self._pong_until = now + self._limits.pong_within_s
            return _PING
        return _NOTHING


def _bad(reason: str) -> Disconnect:
    """A disconnect with a pointer for authors of clients; a reason has at most 123 bytes (RFC 6455 section 5.5)."""
    pointer = "; see docs/protocol.md"
    return Disconnect(BAD_FRAME.code, f"bad_request: {reason}"[: 120 - len(pointer)] + pointer)
