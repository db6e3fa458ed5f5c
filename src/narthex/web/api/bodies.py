"""Defines the bodies of the server API as Structs, which validate requests and generate the OpenAPI document.

Not here: acting on a body (`routes`), the document itself (`openapi.json`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from narthex.domain.channels import MAX_CHANNEL_LENGTH
from narthex.domain.identity import DEFAULT_TENANT
from narthex.domain.ids import MAX_EXACT_INTEGER, Ident, Identified
from narthex.domain.moments import MOMENT_RULE

Channel = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHANNEL_LENGTH)]
Moment = Annotated[
    float, msgspec.Meta(ge=0, le=1e15, description=f"In {MOMENT_RULE}.")
]  # the route refuses milliseconds, with an explanation
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]  # tests of a run; it is added to counters


class Publish(Identified, frozen=True, forbid_unknown_fields=True):
    """Append one JSON value to a channel (`thread:<id>` or `user:<id>`). `key` makes a repeat harmless."""

    channel: Channel
    data: Any
    tenant: Ident = DEFAULT_TENANT
    key: Ident | None = None


class Since(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A position in a channel, up to which the client has every publication."""

    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_EXACT_INTEGER)]
    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class Subscribe(Identified, frozen=True, forbid_unknown_fields=True):
    """Subscribe a member's live connections to a thread on every node, or one `client` of them."""

    user: Ident
    channel: Channel
    tenant: Ident = DEFAULT_TENANT
    client: str = ""
    recover_since: Since | None = None


class Unsubscribe(Identified, frozen=True, forbid_unknown_fields=True):
    """End a user's subscriptions to a thread on every node, or those of one `client`."""

    user: Ident
    channel: Channel
    tenant: Ident = DEFAULT_TENANT
    client: str = ""


class Disconnect(Identified, frozen=True, forbid_unknown_fields=True):
    """Close a user's connections on every node, or one `client` of them."""

    user: Ident
    tenant: Ident = DEFAULT_TENANT
    client: str = ""
    code: Annotated[int, msgspec.Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, msgspec.Meta(max_length=100)] = "disconnected: by the server"


class Revoke(Identified, frozen=True, forbid_unknown_fields=True):
    """Revoke tokens: one by `jti`, all of a `subject`, or all issued before a moment.

    `until` is the moment until which it is kept, best the token's `exp`; 0: 400 days, because a token whose revocation
    has ended is admitted again.
    """

    kind: Literal["jti", "subject", "issued_before"]
    value: Ident
    tenant: Ident = DEFAULT_TENANT
    before: Moment = 0.0
    until: Moment = 0.0
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


class BlockUser(Identified, frozen=True, forbid_unknown_fields=True):
    """Block a user by their id, for tokens of every issuer, or lift the block."""

    user: Ident
    tenant: Ident = DEFAULT_TENANT
    blocked: bool = True
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Drain and stop an instance as SIGTERM does: the one that answers, a `node` by its id, or `*` for all."""

    node: Annotated[str, msgspec.Meta(max_length=100)] = ""


class StartTrace(Identified, frozen=True, forbid_unknown_fields=True):
    """Trace a user's connections live, or one `client` of them, for at most 10 minutes. `payloads` shows texts too, if
    the gateway's setting `trace_payloads` allows that.
    """

    user: Ident
    tenant: Ident = DEFAULT_TENANT
    client: str = ""
    seconds: Annotated[float, msgspec.Meta(ge=1, le=600)] = 120.0
    payloads: bool = False


class EndTrace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End a trace by its id."""

    trace_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class PostBaseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The figures of a performance measurement, by name with the unit, for the dashboard."""

    figures: Annotated[
        dict[Annotated[str, msgspec.Meta(max_length=100)], Annotated[float, msgspec.Meta(ge=0, le=1e15)]],
        msgspec.Meta(min_length=1, max_length=100),
    ]
    kind: Annotated[str, msgspec.Meta(max_length=40)] = "bench"
    version: Annotated[str, msgspec.Meta(max_length=60)] = ""
    machine: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Results(Identified, frozen=True, forbid_unknown_fields=True):
    """The result of an end-to-end run."""

    test_run: Ident
    passed: Count
    failed: Count
    skipped: Count = 0
    duration_s: Annotated[float, msgspec.Meta(ge=0, le=10_000_000)] = 0.0
    environment: Annotated[str, msgspec.Meta(max_length=40)] = ""
    report: dict[str, Any] = msgspec.field(default_factory=dict)
