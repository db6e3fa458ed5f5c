"""Defines RPC methods: typed params in, a plain value out.

Error numbers (docs/protocol.md): 400 bad params, 403 not allowed, 404 not found, 409 conflict, 410 over,
413 too large, 429 too many, 503 an engine is down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from narthex.app.connection import Connection
from narthex.domain.identity import Identity, IdentityClass
from narthex.errors import ClientError
from narthex.ports.later import Deferred

P = TypeVar("P", bound=msgspec.Struct)
Result: TypeAlias = Deferred[object]


class Method(NamedTuple):
    """A method: the function for raw params, whether a probe (connect and echo only) may call it, and the Struct of its
    params; None: it takes any data.
    """

    call: Callable[[Connection, bytes], Result]
    for_probe: bool = False
    params: type[msgspec.Struct] | None = None

    def allowed(self, identity: Identity) -> bool:
        """Whether this class of identity may call it at all."""
        return self.for_probe or identity.identity_class is not IdentityClass.PROBE


def decoded(decoder: msgspec.json.Decoder[P], raw: bytes) -> P:
    """Decode a client's params; no params are `{}`. Raises ClientError `bad_params` (400)."""
    try:
        return decoder.decode(raw if raw != b"null" else b"{}")
    except (msgspec.DecodeError, RecursionError) as fault:
        # msgspec names the path and the type, never the value
        raise ClientError("bad_params", f"{fault}.", "See docs/protocol.md for the params.") from fault


def typed(params: type[P], run: Callable[[Identity, P], Result], *, for_probe: bool = False) -> Method:
    """A method whose params are a Struct; wrong ones are answered with 400 and the path of the fault. The result None
    is answered with `{}`.
    """
    decoder = msgspec.json.Decoder(params)

    def call(connection: Connection, raw: bytes) -> Result:
        assert connection.identity is not None  # only a live connection gets here
        return run(connection.identity, decoded(decoder, raw))

    return Method(call, for_probe, params)
