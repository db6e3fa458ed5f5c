"""`rpc`: finds the method, checks its params, answers with its result or a numbered error (docs/protocol.md).

Not here: the methods (`app/rpc`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping

from narthex.app.connection import Connection, Outcome
from narthex.app.rpc.methods import Method
from narthex.errors import ClientError, DependencyError
from narthex.ports.tracing import current_span
from narthex.protocol import codes
from narthex.protocol.codes import ReplyError
from narthex.protocol.commands import RpcRequest
from narthex.protocol.session import ReceivedCommand


class RpcCommand:
    """See the module. `methods`: the whole table by name."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods

    def rpc(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """Run an RPC method; one that need not wait is answered at once."""
        request = command.request
        assert isinstance(request, RpcRequest)
        method = self._methods.get(request.method)
        if method is None:
            return connection.codec.error(command.id, codes.METHOD_NOT_FOUND)
        if connection.identity is not None and not method.allowed(connection.identity):
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        span = current_span()
        if span.recording:
            span.rename(f"rpc {request.method}")
        try:
            outcome = method.call(connection, bytes(request.data))
        except ClientError as fault:
            return connection.codec.error(command.id, _numbered(fault))
        if isinstance(outcome, Coroutine):
            return _awaited(connection, command, outcome)
        return _reply(connection, command, outcome)


async def _awaited(
    connection: Connection, command: ReceivedCommand, outcome: Coroutine[object, object, object]
) -> bytes:
    try:
        result = await outcome
    except ClientError as fault:
        return connection.codec.error(command.id, _numbered(fault))
    except DependencyError as fault:
        current_span().end(error=fault.code)
        return connection.codec.error(
            command.id, ReplyError(503, f"{fault.code}: {fault.message}", temporary=True)
        )
    return _reply(connection, command, result)


def _reply(connection: Connection, command: ReceivedCommand, result: object) -> bytes:
    """A method without a result is answered with `{}`."""
    return connection.codec.reply(command.id, "rpc", {"data": {} if result is None else result})


def _numbered(fault: ClientError) -> ReplyError:
    """`code: message remedy`, so that a user who sees only the SDK's error can act on it."""
    current_span().set({"error.type": fault.code})
    return ReplyError(fault.number, f"{fault.code}: {fault}", temporary=fault.number == 429)
