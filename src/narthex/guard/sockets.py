"""One admitted WebSocket between an ASGI server and the application, which the guard can end at any moment.

Not here: when it ends (`life`), admission. How a close reaches an application that waits: its task is cancelled inside
the `receive` or `send` that this module gave it, and only there; the cancellation is taken back and becomes the
`websocket.disconnect` that the server would have reported. So a message costs no task and no timer, and the same steps
stand in `receive` and in `send`: a frame between would stay in memory with each idle socket. Under servers that report
the close themselves (`REPORTING`) the application awaits the server's own coroutines, and a message costs no frame of
ours. Rules: the server gets at most one close; a cancellation by anyone else passes through; the guard's call returns
only after its close was sent.
"""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, cast

from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_record import UNKNOWN, Carried
from narthex.app.in_band import InBandAdmission
from narthex.domain.admission import Admit
from narthex.domain.refusals import Refusal, is_final
from narthex.guard.life import SocketLife, SocketLives, refusal_of
from narthex.guard.scopes import (
    RESPONSE,
    Message,
    Scope,
    answers_http,
    application_scope,
    closing,
    explained,
    refusal_messages,
)
from narthex.ports.edge import CLOSE_S
from narthex.ports.later import settled
from narthex.protocol.codes import Disconnect
from narthex.web.paths import root_path

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]  # frameworks annotate it with types of their own
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

REPORTING: Final = frozenset(
    {"uvicorn.protocols.websockets.websockets_sansio_impl", "uvicorn.protocols.websockets.wsproto_impl"}
)
"""Modules of servers that report a close by `send` to a waiting `receive` at once, with its code. Their `receive` is a
method of the connection's `asyncio.Protocol`, whose `resume_writing` releases a waiting `send`. Once the protocol has
closed its `transport` it may report nothing until all that was written has been sent: `abort` ends that wait.
"""

_RAISES_SINCE: Final = "2.4"  # of the ASGI specification: `send` on a closed connection raises OSError
_BROKEN: Final = 1006
_NO_STATUS: Final = 1005
_NORMAL: Final = 1000
_LEFT: Final = Disconnect(_BROKEN, "")
_CONNECT: Final[Message] = {"type": "websocket.connect"}
_NONE: Final[dict[asyncio.Task[Any], int]] = {}
_REFUSED: Final = "permission_denied: refused by the application"


class ClosedByGuard(OSError):
    """The guard has closed the connection: the application's `send` has no effect any more (ASGI 2.4)."""


async def _gone(*_: Any) -> Any:
    """The server's calls before `attach` and after `detach`."""
    raise ClosedByGuard("The connection has ended.")


class GuardedSocket:
    """See the module. The handshake makes it; then `attach`, the application with `receive` and `send`,
    and `detach`.

    Attributes:
        context: the handshake's outcome, with the current user.
        life: expiry, revocation, rotation, drain.
    """

    __slots__ = (
        "_aborting",
        "_accepted",
        "_closed",
        "_closing",
        "_cut",
        "_first",
        "_loop",
        "_others",
        "_passes",
        "_receive",
        "_refreshing",
        "_reports",
        "_scope",
        "_send",
        "_spawn",
        "_task",
        "context",
        "life",
    )

    def __init__(self, lives: SocketLives, spawn: Spawn, context: ConnectionContext) -> None:
        self.context = context
        self._spawn = spawn
        self._scope: Scope | None = None
        self._receive: Receive = _gone
        self._send: Send = _gone
        self._reports = False  # the server is one of `REPORTING`
        self._passes = False  # the application awaits the server's own coroutines
        self._accepted = False
        self._closed: Disconnect | None = None  # set: the application gets its disconnect
        self._closing: asyncio.Task[None] | None = None
        self._aborting: asyncio.TimerHandle | None = None  # if the application does not return
        # The application's tasks inside a call of the server: nearly always at most one.
        self._loop = lives.loop
        self._task: asyncio.Task[Any] | None = None
        self._others: set[asyncio.Task[Any]] | None = None
        self._cut: dict[asyncio.Task[Any], int] = _NONE
        self._first: tuple[Message, ...] = ()  # events that the guard has taken from the server
        self._refreshing: asyncio.Lock | None = None
        self.life: SocketLife = lives.begin(context, self._close)

    def application_scope(self) -> Scope | None:
        """The application's scope, when it may run; None: the connection was closed before.

        The caller has taken `websocket.connect` from the server.
        """
        assert self._scope is not None
        if self._closed is not None:
            return None
        scope = application_scope(self._scope, self.context, self)
        if self._accepted:  # there is no HTTP response any more
            scope["extensions"] = {
                name: it for name, it in scope.get("extensions", {}).items() if name != RESPONSE
            }
        self._first = (_CONNECT, *self._first)
        return scope

    async def refresh(self, admission: InBandAdmission, token: str) -> Refusal | None:
        """Take a fresh token; several take effect in the order of their calls, so that the last one decides.

        Returns:
            None, or the reason why the socket does not live as long as this token.
        """
        lock = self._refreshing = self._refreshing or asyncio.Lock()
        async with lock:
            outcome: Admit | Refusal = await settled(admission.admit(self.context, token))
            return outcome if isinstance(outcome, Refusal) else self.life.refreshed()

    def put_first(self, message: Message) -> None:
        """An event that comes before the client's next one."""
        self._first = (message,)

    # -- the server's side ---------------------------------------------------------------------------------

    def attach(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server's end of the connection. A close that came before is sent now."""
        self._scope, self._receive, self._send = scope, receive, send
        if self._closed is not None:
            self._closing = self._spawn(self._send_close(self._closed))

    async def detach(self) -> None:
        """The connection is over for this side: its slot is free once its close has been sent."""
        if self._closing is not None and not self._closing.done():  # nearly always it is
            await asyncio.wait((self._closing,), timeout=CLOSE_S)
        if self._aborting is not None:
            self._aborting.cancel()
        # A client's own code was in the message that the application has got from the server.
        left = self._passes and self._protocol().transport.is_closing()
        self.life.ended(_NO_STATUS if left else _BROKEN, self.carried)
        # A task of the application that continues gets its disconnect from this object: a reference to the server's
        # callables would keep the server's whole connection alive until the garbage collector runs.
        self._closed = self._closed or _LEFT
        self._receive = self._send = _gone
        self._passes = False

    def carried(self) -> Carried:
        """The messages of the connection so far: not counted here."""
        return UNKNOWN

    async def accept(self, subprotocol: str | None) -> None:
        """Accept the connection before the application runs (in-band proof)."""
        self._accepted = True
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol})

    def _close(self, disconnect: Disconnect) -> None:
        """See `life.CloseSocket`."""
        self._closed = disconnect
        if self._passes:
            self._passes = False
            protocol = self._protocol()
            final = is_final(disconnect.code)
            if protocol.transport.is_closing() or (final and not protocol.writable.is_set()):
                self._abort()
            else:
                # A `send` that waits for the client to read ends now, and the close comes after its message.
                protocol.resume_writing()
                self._aborting = self._loop.call_later(CLOSE_S, self._abort)
        if self._scope is not None:
            self._closing = self._spawn(self._send_close(disconnect))
        tasks = [*(self._others or ()), *([self._task] if self._task is not None else [])]
        self._cut = {task: task.cancelling() for task in tasks}
        for task in tasks:
            task.cancel()

    def _protocol(self) -> Any:
        """The server's, which is one of `REPORTING`."""
        return cast("Any", self._receive).__self__

    def _abort(self) -> None:
        """End the server's connection: each task of the application that waits in the server's calls continues."""
        protocol = self._protocol()
        protocol.queue.put_nowait(self._disconnect())
        protocol.transport.abort()

    async def _send_close(self, disconnect: Disconnect) -> None:
        """Give the server the close; a client that does not read gets `CLOSE_S`."""
        assert self._scope is not None
        messages: tuple[Message, ...] = (closing(disconnect.code, disconnect.reason),)
        if not self._accepted:
            if self.context.admit.explain:
                messages = (explained(self._scope), *messages)
            elif answers_http(self._scope):
                messages = refusal_messages(
                    refusal_of(disconnect), self.context.trace_id, root_path(self._scope)
                )
        try:
            async with asyncio.timeout(CLOSE_S):
                for message in messages:
                    await self._send(message)
        except (OSError, RuntimeError, TimeoutError):
            pass  # the client, or the application's own close, was there first

    # -- the application's side ----------------------------------------------------------------------------

    def calls(self) -> tuple[Receive, Send]:
        """`receive` and `send` for the application."""
        self._reports = getattr(self._receive, "__module__", "") in REPORTING
        return (self._receive_passing, self._send_passing) if self._reports else (self.receive, self.send)

    def _pass(self) -> None:
        """From now on the application awaits the server's own coroutines, if nothing stands against it."""
        self._passes = self._reports and self._accepted and not self._first and self._closed is None

    def _receive_passing(self) -> Awaitable[Message]:
        return self._receive() if self._passes else self.receive()

    def _send_passing(self, message: Message) -> Awaitable[None]:
        passes = self._passes and message["type"] == "websocket.send"
        return self._send(message) if passes else self.send(message)

    async def receive(self) -> Message:
        """ASGI's `receive` for the application: events that the guard has taken from the server, then the server's."""
        if self._first:
            message, *rest = self._first
            self._first = tuple(rest)
            self._pass()
            return dict(message)
        if self._closed is not None:
            return self._disconnect()
        task = current_task(self._loop)
        if self._task is None:
            self._task = task
        else:
            self._enter(task)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._was_cut(task):
                return self._disconnect()
            raise
        finally:
            if self._task is task:
                self._task = None
            else:
                self._leave(task)
        if message["type"] == "websocket.disconnect":
            self.life.ended(message.get("code") or _BROKEN, self.carried)
        return message

    async def send(self, message: Message) -> None:
        """ASGI's `send` for the application."""
        if self._closed is not None:
            return self._refuse_to_send()
        if message["type"] != "websocket.send":
            return await self._control(message)
        task = current_task(self._loop)
        if self._task is None:
            self._task = task
        else:
            self._enter(task)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if self._was_cut(task):
                return self._refuse_to_send()
            raise
        finally:
            if self._task is task:
                self._task = None
            else:
                self._leave(task)
        return None

    async def _control(self, message: Message) -> None:
        """The application accepts, refuses or closes."""
        assert self._scope is not None
        kind = message["type"]
        if kind == "websocket.accept":
            if self._accepted:  # by the guard, for an in-band proof
                return
            self._accepted = True
            if not message.get("subprotocol") and self.context.admit.subprotocol:
                # A browser that offered subprotocols and is given none fails the handshake.
                message = {**message, "subprotocol": self.context.admit.subprotocol}
        elif kind == "websocket.close":
            if not self._accepted and self.context.admit.explain:
                self._accepted = True
                await self._send(explained(self._scope))
                message = closing(message.get("code") or 0, message.get("reason") or _REFUSED)
        elif kind == f"{RESPONSE}.start" and self._accepted:
            message = closing(0, f"{_REFUSED} with status {message['status']}")
        elif kind == f"{RESPONSE}.body" and self._accepted:
            return
        await self._send(message)
        self._pass()
        if self._accepted and message["type"] == "websocket.close":
            self.life.ended(message.get("code") or _NORMAL, self.carried)

    def _enter(self, task: asyncio.Task[Any] | None) -> None:
        """A second task is inside a call of the server."""
        assert task is not None
        if self._others is None:
            self._others = set()
        self._others.add(task)

    def _leave(self, task: asyncio.Task[Any] | None) -> None:
        if self._others is not None and task is not None:
            self._others.discard(task)

    def _was_cut(self, task: asyncio.Task[Any] | None) -> bool:
        """Take the guard's own cancellation back. False: someone else cancelled the task, too."""
        if task is None:
            return False
        before = self._cut.pop(task, None)
        return before is not None and task.uncancel() <= before

    def _disconnect(self) -> Message:
        assert self._closed is not None
        return {
            "type": "websocket.disconnect",
            "code": self._closed.code,
            "reason": self._closed.reason,
        }

    def _refuse_to_send(self) -> None:
        """As servers do after the end: since ASGI 2.4 `send` raises, before it has no effect."""
        assert self._scope is not None
        version = str((self._scope.get("asgi") or {}).get("spec_version", "2.0"))
        if version >= _RAISES_SINCE:
            raise ClosedByGuard("The guard has closed the connection.")


class CountedSocket(GuardedSocket):
    """Counts messages and their bytes for the access log, at the price of a frame a call."""

    __slots__ = ("_bytes_in", "_bytes_out", "_messages_in", "_messages_out")

    def __init__(self, lives: SocketLives, spawn: Spawn, context: ConnectionContext) -> None:
        self._bytes_in = self._bytes_out = self._messages_in = self._messages_out = 0
        super().__init__(lives, spawn, context)

    def carried(self) -> Carried:
        """The messages so far."""
        return Carried(self._bytes_in, self._bytes_out, self._messages_in, self._messages_out)

    def calls(self) -> tuple[Receive, Send]:
        """See `GuardedSocket`."""
        return self.receive, self.send

    async def receive(self) -> Message:
        """See `GuardedSocket`."""
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._messages_in += 1
            self._bytes_in += _size(message)
        return message

    async def send(self, message: Message) -> None:
        """See `GuardedSocket`."""
        await super().send(message)
        if message["type"] == "websocket.send":
            self._messages_out += 1
            self._bytes_out += _size(message)


def _size(message: Message) -> int:
    """Bytes of a message."""
    text: str | None = message.get("text")
    return len(message.get("bytes") or b"") if text is None else len(text.encode("utf-8", "surrogatepass"))
