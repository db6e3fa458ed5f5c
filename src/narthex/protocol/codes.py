"""Error and disconnect codes of the Centrifuge client protocol, in their published meaning.

Errors answer one command and keep the connection; disconnects end it: 3000-3499 and 4000-4499 make SDKs
reconnect, 3500-3999 and 4500-4999 are final. `domain.refusals` maps refusals to close codes; the numbers
here end a connection for another reason than a refusal.
"""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.domain.refusals import Refusal, is_final


class ReplyError(msgspec.Struct, frozen=True, omit_defaults=True):
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


class Disconnect(msgspec.Struct, frozen=True):
    """A close code and its reason, `code: text` in plain text."""

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        """Whether SDKs reconnect after it."""
        return self.code >= 3000 and not is_final(self.code)

    @classmethod
    def refusing(cls, code: str, detail: str = "") -> Disconnect:
        """With the close code of a refusal, and its title unless `detail` says more."""
        return cls(*Refusal(code=code, detail=detail).close())


NORMAL: Final = Disconnect(1000, "")
FORCE_RECONNECT: Final = Disconnect(3011, "force_reconnect: connect again")
FORCED: Final = Disconnect(3503, "disconnected: by the server")
NOT_TEXT: Final = Disconnect.refusing(
    "inappropriate_protocol", "send JSON in text messages, or offer the subprotocol centrifuge-protobuf"
)
NOT_BINARY: Final = Disconnect.refusing("inappropriate_protocol", "send protobuf in binary messages")

SHUTDOWN: Final = Disconnect.refusing("draining")
TOKEN_LIFE_ENDED: Final = Disconnect.refusing("expired")
SLOW: Final = Disconnect.refusing("slow")
INSUFFICIENT_STATE: Final = Disconnect.refusing("insufficient_state")
NO_PONG: Final = Disconnect.refusing(
    "no_pong", "the client did not answer a ping in time; reconnect to recover what was missed"
)
TOO_MANY_COMMANDS: Final = Disconnect.refusing("rate_limited", "too many commands")
INVALID_TOKEN: Final = Disconnect.refusing("auth_required", "send a token in the connect command")
NO_FRESH_TOKEN: Final = Disconnect.refusing("token_expired", "no fresh token came in time")
REVOKED: Final = Disconnect.refusing("token_revoked", "sign in again")
BAD_FRAME: Final = Disconnect.refusing("bad_request", "the frame is not a command; see docs/protocol.md")
UNKNOWN_DELTA: Final = Disconnect.refusing(
    "bad_request", "the only format of deltas is fossil; see docs/protocol.md"
)
STALE: Final = Disconnect.refusing("silence", "no credential came in time; send connect with a token")
NOT_CONNECTED: Final = Disconnect.refusing(
    "silence", "the credential is valid, but no connect came; send connect"
)
