"""The life of an admitted socket beside its application: expiry, revocation, rotation, drain.

Not here: how a socket is closed (the ASGI middleware and the proxy each pass a callback), admission (`app/handshake`).
Rules: the socket of an admitted handshake is registered before any other code runs, so that no revocation and no drain
misses it; it is closed at most once, with the close code of the table; its slot is released when it has ended, however
it ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_record import UNKNOWN, Carried, ConnectionRecorder
from narthex.app.pacing import Pacing
from narthex.app.registry import ConnectionRegistry
from narthex.app.timers import TimerWheel
from narthex.domain.identity import Identity
from narthex.domain.refusals import TABLE, Refusal
from narthex.ports.telemetry import Meter
from narthex.protocol.codes import FORCE_RECONNECT, TOKEN_LIFE_ENDED, Disconnect
from narthex.protocol.session import NEVER

_NO_PINGS: Final = 1.0  # the server or the peers ping

CloseSocket = Callable[[Disconnect], None]
"""Closes a socket with a code and a reason. Called at most once, on the event loop; must not block or raise."""


def _closed_already(_: Disconnect) -> None:
    """The way to close a socket that has ended."""


class SocketLife:
    """One admitted socket. Made by `SocketLives.begin`; its holder calls `ended` when the socket is gone.

    Attributes:
        context: the handshake's outcome, with the current user.
        due: belongs to the timer wheel.
        closed_with: the code and reason that this side closed it with, None while it did not.
    """

    __slots__ = ("_close", "_ended", "_lives", "_rotate_at", "closed_with", "context", "due")

    def __init__(self, lives: SocketLives, context: ConnectionContext, close: CloseSocket) -> None:
        self.context = context
        self.due = 0
        self.closed_with: Disconnect | None = None
        self._lives = lives
        self._close = close
        self._ended = False
        self._rotate_at = lives.rotate_at()

    @property
    def identity(self) -> Identity | None:
        """The user, None while inert."""
        return self.context.identity

    known_identity = identity

    def refreshed(self) -> Refusal | None:
        """The context's identity has changed: a fresh token, or the proof of an inert connection.

        Returns:
            None; or why it came too late: the socket is closed, or gone.
        """
        if self.closed_with is not None:
            return refusal_of(self.closed_with)
        if self._ended:
            return Refusal(code="bad_request", detail="The connection has ended.")
        self._lives.identified(self)
        return None

    def close(self, disconnect: Disconnect) -> None:
        """Close the socket; idempotent."""
        if self.closed_with is None and not self._ended:
            self.closed_with = disconnect
            self._lives.timers.cancel(self)
            self._close(disconnect)

    def refuse(self, refusal: Refusal) -> None:
        """Close the socket with a refusal's close code and reason."""
        self.close(Disconnect(*refusal.close()))

    def ended(self, code: int, carried: Callable[[], Carried] = lambda: UNKNOWN, reason: str = "") -> None:
        """The socket is gone, closed with `code`, after it has `carried` so much; idempotent.

        `reason` is never a peer's text: of a close by the guard that was not `close`'s, such as a lost upstream.
        """
        if not self._ended:
            self._ended = True
            lives, end = self._lives, self.closed_with or Disconnect(code, reason)
            # The callback holds the socket, and the socket this: without it neither waits for the garbage collector.
            self._close = _closed_already
            lives.forget(self)
            self.context.release()
            lives.meter.disconnect(end.code)
            if lives.records is not None:
                lives.records.ended(self.context, end.code, end.reason, carried())

    def wake(self, now: float) -> None:
        """See `app.timers.Sleeper`: expiry and rotation."""
        if now >= self._lives.expires_at(self.context.identity, now):
            self.close(TOKEN_LIFE_ENDED)
        elif now >= self._rotate_at:
            self.close(FORCE_RECONNECT)
        else:
            self._lives.schedule(self)

    def wake_at(self) -> float:
        """Loop time of the next `wake`; `NEVER` for none."""
        lives = self._lives
        return min(self._rotate_at, lives.expires_at(self.context.identity, lives.timers.now()))


class SocketLives:
    """The live sockets of this process.

    Args:
        meter: counts ends.
        report: takes an unexpected exception.
        grace_s: how long a socket may outlive its token.
        max_life_s: of a socket before it is rotated; 0: no end.
        records: records ends; None: no record is wanted.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        meter: Meter,
        report: Callable[[BaseException], None],
        grace_s: float,
        max_life_s: float,
        records: ConnectionRecorder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.meter = meter
        self.records = records
        self.registry = ConnectionRegistry[SocketLife]()
        self.loop = asyncio.get_running_loop()
        self.timers = TimerWheel(self.loop, report)
        self._grace_s = grace_s
        self._pacing = Pacing(_NO_PINGS, max_life_s)
        self._clock = clock

    def begin(self, context: ConnectionContext, close: CloseSocket) -> SocketLife:
        """Register the socket of a handshake that is being admitted."""
        life = SocketLife(self, context, close)
        self.registry.add(life)
        if context.identity is None:
            context.slot.allow_eviction(life.refuse)
            self.schedule(life)
        else:
            self.identified(life)
        return life

    def identified(self, life: SocketLife) -> None:
        """The socket has a user, or its user has a fresh token."""
        identity = life.context.identity
        if identity is not None:
            self.registry.identify(life, identity.user)
        self.schedule(life)

    def schedule(self, life: SocketLife) -> None:
        """Wake the socket when the next of its times comes."""
        at = life.wake_at()
        if at < NEVER:
            self.timers.schedule(life, at)
        else:
            self.timers.cancel(life)

    def forget(self, life: SocketLife) -> None:
        """The socket has ended."""
        self.timers.cancel(life)
        self.registry.remove(life)

    def rotate_at(self) -> float:
        """Loop time at which a new socket is rotated."""
        return self.timers.now() + self._pacing.life_s()

    def expires_at(self, identity: Identity | None, now: float) -> float:
        """Loop time at which the grace of a user's token ends; `now` is the loop's."""
        if identity is None or identity.expires_at is None:
            return NEVER
        return now + identity.expires_at - self._clock() + self._grace_s

    def stop(self) -> None:
        """Wake no socket any more."""
        self.timers.stop()


def refusal_of(end: Disconnect) -> Refusal:
    """The refusal that says the same as a close of the guard's."""
    word = end.reason.partition(":")[0]
    return Refusal(code=word if word in TABLE else "draining", retry_after_s=1)
