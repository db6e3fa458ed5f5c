"""Records the end of a connection, where the access log is on (or the log is at debug).

Not here: the record of its handshake (`handshake_record`), which has the same `trace_id`; writing records
(adapters/telemetry). Rules: exactly these members, `event, transport, code, reason, duration_s, bytes_in, bytes_out,
messages_in, messages_out, user, identity_class, test_run, client, trace_id`; the reason is one of narthex's or empty,
because the text of a client's close frame is the client's; the user is a fingerprint.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from narthex.app.connection_context import ConnectionContext
from narthex.app.handshake_record import Record
from narthex.domain.identity import Identity
from narthex.domain.refusals import TABLE
from narthex.ports.edge import SendProgress
from narthex.protocol.codes import FORCE_RECONNECT, FORCED

FINGERPRINT: Final = 16
"""Hexadecimal digits: `printf 'TENANT\\0SUBJECT' | sha256sum | cut -c1-16`. It hides no user who can be guessed."""


def _word(reason: str) -> str:
    return reason.partition(":")[0]


_WORDS: Final = frozenset({*TABLE, _word(FORCE_RECONNECT.reason), _word(FORCED.reason)})


class Carried(NamedTuple):
    """What a connection has carried; None where this side cannot tell.

    Attributes:
        bytes_in: of the TCP connection since it was opened, or of the messages where a server around us holds it.
        bytes_out: likewise.
        messages_in: of the client.
        messages_out: of the application.
    """

    bytes_in: int | None = None
    bytes_out: int | None = None
    messages_in: int | None = None
    messages_out: int | None = None

    @classmethod
    def of(cls, progress: SendProgress) -> Carried:
        """The bytes that the kernel has counted."""
        return cls(progress.received or None, progress.sent or None)


UNKNOWN: Final = Carried()


class ConnectionRecorder:
    """See the module.

    Args:
        record: writes a record; must not raise.
        clock: seconds since the epoch, as `ConnectionContext.started_at`.
    """

    def __init__(self, record: Record, clock: Callable[[], float] = time.time) -> None:
        self._record = record
        self._clock = clock

    def ended(self, context: ConnectionContext, code: int, reason: str, carried: Carried = UNKNOWN) -> None:
        """The connection of a handshake is gone: `code` as its client saw it, 1006 without a close frame."""
        identity = context.identity
        word = _word(reason)
        self._record(
            {
                "event": "connection_end",
                "transport": context.transport,
                "code": code,
                "reason": word if word in _WORDS else "",
                "duration_s": round(max(0.0, self._clock() - context.started_at), 3),
                **carried._asdict(),
                "user": fingerprint(identity) if identity is not None else "",
                "identity_class": identity.identity_class.value if identity is not None else "",
                "test_run": identity.test_run if identity is not None else "",
                "client": context.address,
                "trace_id": context.trace_id,
            }
        )


def fingerprint(identity: Identity) -> str:
    """The same for every connection of a user, on every node and after every restart."""
    text = f"{identity.tenant}\0{identity.subject}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:FINGERPRINT]
