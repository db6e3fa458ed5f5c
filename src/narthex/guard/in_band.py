"""Proof by a client's first message, for applications whose clients cannot send a credential with the upgrade.

The guard accepts the connection, waits for one message, lets the application's hook find the token in it, and admits by
the handshake's own rules. Only then does the application run; its own accept has no effect any more. Rules: nothing of
the application runs before the proof; silence, a message without a token or of more than `max_message_bytes`, and a
refused token end the connection with the close code of the table.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from narthex.domain.admission import Admit
from narthex.domain.refusals import Refusal
from narthex.guard.core import GuardCore
from narthex.guard.scopes import Message
from narthex.guard.sockets import GuardedSocket
from narthex.ports.later import settled

Proof = tuple[str | None, str | bytes | None]
"""The token, None for none; and the message to hand on to the application, None for none."""

InBand = Callable[[str | bytes], Proof | Awaitable[Proof]]
"""Finds the token in a client's first message. ValueError, LookupError and TypeError: the message is malformed."""


async def prove(core: GuardCore, socket: GuardedSocket, hook: InBand) -> Message | Refusal | None:
    """Wait for the proof.

    Returns:
        The first event for the application; a refusal; None: the client, or the guard, has ended the connection.
    """
    try:
        async with asyncio.timeout(core.limits.inband_timeout_s):
            event = await socket.receive()
    except TimeoutError:
        return Refusal(code="silence")
    if event["type"] != "websocket.receive":
        return None
    text = event.get("text")
    message: str | bytes = event["bytes"] if text is None else text
    if len(message) > core.limits.max_message_bytes:  # before a hook parses it on the event loop
        return Refusal(code="bad_request", detail="The first message is too large.")
    try:
        token, rest = await _asked(hook, message)
    except (ValueError, LookupError, TypeError):
        return Refusal(code="bad_request", detail="The first message holds no token in the expected place.")
    if not token:
        return Refusal(code="auth_required", detail="The first message holds no token.")
    outcome: Admit | Refusal = await settled(core.in_band.admit(socket.context, token))
    if isinstance(outcome, Refusal):
        return outcome
    socket.life.refreshed()
    if rest is None:
        return {}
    return {"type": "websocket.receive", "text" if isinstance(rest, str) else "bytes": rest}


async def _asked(hook: InBand, message: str | bytes) -> Proof:
    found = hook(message)
    return await found if inspect.isawaitable(found) else found
