"""Error and disconnect codes of the Centrifuge client protocol, in their published meaning.

Errors answer one command and keep the connection; disconnects end it: 3000-3499 and 4000-4499 make SDKs
reconnect, 3500-3999 and 4500-4999 are final. Which refusal closes with which code is `domain.refusals`'.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ReplyError(NamedTuple):
    """The `error` member of a reply; `temporary` invites the SDK to try the same command again."""

    code: int
    message: str
    temporary: bool = False


INTERNAL: Final = ReplyError(100, "internal server error", temporary=True)
UNAUTHORIZED: Final = ReplyError(101, "unauthorized")
UNKNOWN_CHANNEL: Final = ReplyError(102, "unknown channel")
PERMISSION_DENIED: Final = ReplyError(103, "permission denied")
METHOD_NOT_FOUND: Final = ReplyError(104, "method not found")
ALREADY_SUBSCRIBED: Final = ReplyError(105, "already subscribed")
LIMIT_EXCEEDED: Final = ReplyError(106, "limit exceeded")
BAD_REQUEST: Final = ReplyError(107, "bad request")
NOT_AVAILABLE: Final = ReplyError(108, "not available")
TOKEN_EXPIRED: Final = ReplyError(109, "token expired")
EXPIRED: Final = ReplyError(110, "expired")
TOO_MANY_REQUESTS: Final = ReplyError(111, "too many requests", temporary=True)
UNRECOVERABLE_POSITION: Final = ReplyError(112, "unrecoverable position")


class Disconnect(NamedTuple):
    """A close code and its reason, `code: text` in plain text."""

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        """Whether SDKs come back after it."""
        return 3000 <= self.code < 3500 or 4000 <= self.code < 4500


NORMAL: Final = Disconnect(1000, "")
SHUTDOWN: Final = Disconnect(3001, "draining: the gateway is shutting down")
SERVER_ERROR: Final = Disconnect(3004, "internal: something failed on the server; reconnect")
TOKEN_LIFE_ENDED: Final = Disconnect(3005, "expired: the token expired on the live connection")
SLOW: Final = Disconnect(3008, "slow: the client reads too slowly")
INSUFFICIENT_STATE: Final = Disconnect(3010, "insufficient_state: the position in a channel was lost")
FORCE_RECONNECT: Final = Disconnect(3011, "force_reconnect: connect again")
NO_PONG: Final = Disconnect(3012, "no_pong: no pong came in time")
TOO_MANY_COMMANDS: Final = Disconnect(3013, "rate_limited: too many commands")
INVALID_TOKEN: Final = Disconnect(3500, "auth_required: send a token in the connect command")
BAD_FRAME: Final = Disconnect(3501, "bad_request: the frame is not a command; see docs/protocol.md")
STALE: Final = Disconnect(3502, "silence: no credential came in time")
FORCED: Final = Disconnect(3503, "disconnected: by the server")
CHANNEL_LIMIT: Final = Disconnect(3505, "channel_limit: too many subscriptions")
BUG: Final = Disconnect(1011, "internal: a bug in narthex")
