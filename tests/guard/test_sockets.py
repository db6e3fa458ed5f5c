"""`narthex.Guard` driven directly by ASGI messages: in-band proof, refresh, and closes at awkward moments."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import narthex
from narthex.app.connection_context import ConnectionContext
from narthex.errors import ConfigError
from narthex.guard import Guard
from narthex.guard.asgi import _endpoint
from narthex.guard.life import SocketLife
from narthex.guard.paths import PathPatterns
from narthex.guard.sockets import ClosedByGuard, GuardedSocket
from narthex.protocol.codes import SHUTDOWN
from narthex.settings import load
from tests.guard.cores import SECRET, token, until
from tests.timing import within

Message = dict[str, Any]


class Server:
    """The server's end of one connection: events for the guard, and what the guard sent."""

    def __init__(
        self, guard: Guard, *, offered: tuple[str, ...] = (), spec: str = "2.4", **headers: str
    ) -> None:
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.blocked = asyncio.Event()
        self.blocked.set()
        self.events.put_nowait({"type": "websocket.connect"})
        found = [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in headers.items())]
        if offered:
            found.append((b"sec-websocket-protocol", ", ".join(offered).encode()))
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": spec},
            "path": "/ws",
            "query_string": b"",
            "headers": found,
            "subprotocols": list(offered),
            "client": ("127.0.0.1", 4000),
            "extensions": {"websocket.http.response": {}},
        }
        self.task = asyncio.get_running_loop().create_task(guard(scope, self.events.get, self._send))

    async def _send(self, message: Message) -> None:
        await self.blocked.wait()
        self.sent.put_nowait(message)

    async def next(self) -> Message:
        """The next message of the guard."""
        return await asyncio.wait_for(self.sent.get(), within(5))

    async def end(self) -> None:
        """The client leaves; the guard's call must return."""
        self.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self.task, within(5))


@asynccontextmanager
async def guarded(
    app: Any, directory: Path, *, options: dict[str, Any] | None = None, **arguments: Any
) -> AsyncIterator[Guard]:
    """A started guard."""
    settings = load(
        {"data_dir": directory, "jwt_secret": SECRET, "embedded_provider": "off", **(options or {})},
        {"ENVIRONMENT": "testing"},
        parts={"store"},
    )
    guard = Guard(app, ["/ws"], settings=settings, **arguments)
    await guard.start()
    try:
        yield guard
    finally:
        await guard.stop()


class Echo:
    """An application that accepts, echoes, and remembers the end that it was told."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []
        self.ended: list[Message] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                self.ended.append(event)
                return
            await send({"type": "websocket.send", "text": event["text"]})


def in_band(message: str | bytes) -> tuple[str | None, str | None]:
    """The token, and the rest of the message for the application."""
    body = json.loads(message)
    return body["token"], body.get("rest")


async def test_a_first_message_proves_the_user(tmp_path: Path) -> None:
    """The guard accepts, the application runs only after the proof, and gets the rest of the message first."""
    app = Echo()
    async with guarded(app, tmp_path, in_band=in_band, subprotocol="chat.v2") as guard:
        server = Server(guard, offered=("chat.v2", "jwt-auth"))
        assert await server.next() == {"type": "websocket.accept", "subprotocol": "chat.v2"}
        assert app.scopes == []
        server.events.put_nowait(
            {"type": "websocket.receive", "text": json.dumps({"token": token("ann"), "rest": "first"})}
        )
        assert await server.next() == {"type": "websocket.send", "text": "first"}
        assert narthex.identity(app.scopes[0]).subject == "ann"
        assert "websocket.http.response" not in app.scopes[0]["extensions"]
        await server.end()


async def test_a_first_message_that_only_proves_is_not_passed_on(tmp_path: Path) -> None:
    """The application's first message is the next one; a message of bytes is read as one of text."""
    app = Echo()
    async with guarded(app, tmp_path, in_band=in_band) as guard:
        for proof in (
            {"text": json.dumps({"token": token()})},
            {"bytes": json.dumps({"token": token()}).encode()},
        ):
            server = Server(guard)
            assert (await server.next())["type"] == "websocket.accept"
            server.events.put_nowait({"type": "websocket.receive"} | proof)
            server.events.put_nowait({"type": "websocket.receive", "text": "hello"})
            assert await server.next() == {"type": "websocket.send", "text": "hello"}
            await server.end()


async def test_a_guard_that_was_stopped_begins_anew(tmp_path: Path) -> None:
    """With the next connection, as a server does that is started again in one process."""
    app = Echo()
    async with guarded(app, tmp_path) as guard:
        for _ in range(2):
            server = Server(guard, authorization=f"Bearer {token('ann')}")
            assert (await server.next())["type"] == "websocket.accept"
            await server.end()
            await guard.stop()
            await guard.stop()
    assert [narthex.identity(scope).subject for scope in app.scopes] == ["ann", "ann"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (json.dumps({"token": ""}), 3500),
        (json.dumps({"token": "nonsense"}), 3500),
        (json.dumps({"token": token(secret="x" * 40)}), 3500),
        ("no json", 3501),
        (json.dumps(["a"]), 3501),
        (json.dumps({"token": token(), "rest": "x" * 70_000}), 3501),
        (None, 3502),
    ],
)
async def test_a_bad_first_message_ends_the_connection(
    tmp_path: Path, message: str | None, code: int
) -> None:
    """No token, a bad one, garbage and silence have the close codes of the table, and never reach the application."""
    app = Echo()
    async with guarded(app, tmp_path, in_band=in_band, options={"inband_timeout_s": 0.3}) as guard:
        server = Server(guard)
        assert (await server.next())["type"] == "websocket.accept"
        if message is not None:
            server.events.put_nowait({"type": "websocket.receive", "text": message})
        closed = await server.next()
        assert (closed["type"], closed["code"]) == ("websocket.close", code)
        await asyncio.wait_for(server.task, within(5))
        assert app.scopes == []


async def test_a_fresh_token_keeps_the_socket_alive(tmp_path: Path) -> None:
    """`refresh` takes a token of the same subject, and refuses another subject's."""
    app = Echo()
    async with guarded(app, tmp_path, options={"token_grace_s": 0.5}) as guard:
        servers = [Server(guard, authorization=f"Bearer {token('ann', ttl_s=1)}") for _ in range(2)]
        for server in servers:
            await server.next()
        assert await guard.refresh(app.scopes[0], token("ann")) is None
        refused = await guard.refresh(app.scopes[1], token("bob"))
        assert refused is not None
        assert refused.code == "credential_conflict"
        closed = await servers[1].next()
        assert (closed["type"], closed["code"]) == ("websocket.close", 3005)
        assert app.ended[0]["code"] == 3005
        servers[0].events.put_nowait({"type": "websocket.receive", "text": "alive"})
        assert (await servers[0].next())["text"] == "alive"
        await servers[0].end()


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_a_close_reaches_an_application_that_is_blocked_in_send(tmp_path: Path, spec: str) -> None:
    """A client that does not read holds the server's `send`; the application is released all the same."""
    outcome: list[str] = []
    full, sending = asyncio.Event(), asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await full.wait()
        sending.set()
        try:
            await send({"type": "websocket.send", "text": "long"})
            outcome.append("returned")
        except ClosedByGuard:
            outcome.append("raised")
        outcome.append((await receive())["type"])

    async with guarded(app, tmp_path) as guard:
        server = Server(guard, spec=spec, authorization=f"Bearer {token()}")
        await server.next()
        server.blocked.clear()
        full.set()
        await asyncio.wait_for(sending.wait(), within(5))
        await asyncio.sleep(0)
        core = await guard.start()
        for life in core.lives.registry:
            life.close(SHUTDOWN)
        async with asyncio.timeout(within(5)):
            while len(outcome) < 2:  # noqa: ASYNC110 - the application has no event for its end
                await asyncio.sleep(0.01)
        assert outcome == ["raised" if spec == "2.4" else "returned", "websocket.disconnect"]
        server.blocked.set()
        assert (await server.next())["code"] == 3001
        await asyncio.wait_for(server.task, within(5))


async def test_a_cancellation_by_the_application_stays_one(tmp_path: Path) -> None:
    """A time-out of the application's own around `receive` is not taken for the guard's close."""
    outcome: list[str] = []
    timed_out = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            async with asyncio.timeout(0.05):
                await receive()
        except TimeoutError:
            outcome.append("timeout")
            timed_out.set()
        outcome.append((await receive())["type"])

    async with guarded(app, tmp_path) as guard:
        server = Server(guard, authorization=f"Bearer {token()}")
        await server.next()
        await asyncio.wait_for(timed_out.wait(), within(5))
        await server.end()
        assert outcome == ["timeout", "websocket.disconnect"]


async def test_a_revocation_before_the_application_accepts_is_a_refusal(tmp_path: Path) -> None:
    """While the application still decides, the client gets the reason as a response, not a bare 403."""
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        waiting.set()
        await go_on.wait()
        await send({"type": "websocket.close"})

    async with guarded(app, tmp_path) as guard:
        server = Server(guard, spec="2.3", authorization=f"Bearer {token('eve')}")
        await asyncio.wait_for(waiting.wait(), within(5))
        core = await guard.start()
        await core.revocations.revoke_subject("default", "eve", until=time.time() + 60, reason="test")
        started = await server.next()
        assert (started["type"], started["status"]) == ("websocket.http.response.start", 401)
        assert json.loads((await server.next())["body"])["code"] == "token_revoked"
        go_on.set()
        await asyncio.wait_for(server.task, within(5))
        assert server.sent.empty()


async def test_other_websockets_are_refused_and_claims_never_pass(tmp_path: Path) -> None:
    """A path that is not named is 404; plain HTTP passes without headers that claim an identity."""
    seen: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        seen.append(scope)

    async with guarded(app, tmp_path) as guard:
        scope = {"type": "http", "path": "/mine", "headers": [(b"narthex_subject", b"root"), (b"a", b"b")]}
        await guard(scope, _never, _never)
        assert seen[0]["headers"] == [(b"a", b"b")]
        server = Server(guard, authorization=f"Bearer {token()}")
        server.task.cancel()
        other = {
            "type": "websocket",
            "path": "/ws/",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "extensions": {"websocket.http.response": {}},
        }
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        await guard(other, receive, send)
        assert sent[0]["status"] == 404
        assert len(seen) == 1


async def _never(*_: Any) -> Any:
    raise AssertionError("nothing is sent or received")


async def test_an_application_without_lifespan_has_the_guard_s(tmp_path: Path) -> None:
    """The guard starts and stops with the server also around an application that raises for the lifespan's scope."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        raise ValueError(scope["type"])

    settings = load({"data_dir": tmp_path, "jwt_secret": SECRET}, {"ENVIRONMENT": "testing"}, parts={"store"})
    guard = Guard(app, ["/ws"], settings=settings)
    events: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()

    async def send(message: Message) -> None:
        sent.put_nowait(message)

    events.put_nowait({"type": "lifespan.startup"})
    running = asyncio.create_task(guard({"type": "lifespan", "asgi": {}}, events.get, send))
    assert await asyncio.wait_for(sent.get(), within(5)) == {"type": "lifespan.startup.complete"}
    assert (await guard.start()).state() == "ready"
    events.put_nowait({"type": "lifespan.shutdown"})
    assert await asyncio.wait_for(sent.get(), within(5)) == {"type": "lifespan.shutdown.complete"}
    await running


def test_a_configuration_error_ends_the_import_with_78(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every problem is printed, and a server that imports the program ends with the code of a bad configuration."""
    monkeypatch.setenv("NARTHEX_JWT_LEEWAY_S", "x")
    monkeypatch.setenv("NARTHEX_ALLOWED_ORIGINS", "nonsense")
    with pytest.raises(SystemExit) as raised:
        Guard(Echo(), ["/ws"])
    assert raised.value.code == 78
    told = capfd.readouterr().err
    assert "NARTHEX_JWT_LEEWAY_S" in told
    assert "nonsense" in told


def test_the_endpoint_is_a_path_that_clients_can_ask_for() -> None:
    """`/ws/config` names the first path without parameters, if there is one; the probe needs one."""
    probe: Any = object()
    assert _endpoint(["/rooms/{room}", "/chat/*", "/plain", "/other"], "/ws", None) == "/plain"
    assert _endpoint(["/rooms/{room}", "/chat/*"], "/ws", None) == "/rooms/{room}"
    assert _endpoint(["/plain"], "/ws", probe) == "/plain"
    for paths, prefix, given in (
        ([], "/ws", None),
        (["/rooms/{room}"], "/ws", probe),
        (["/chat/*"], "/ws", probe),
        (["/plain"], "ws", None),
        (["/plain"], "/ws/", None),
    ):
        with pytest.raises(ConfigError):
            _endpoint(paths, prefix, given)


@pytest.mark.parametrize("logged", [True, False])
async def test_an_end_is_recorded_where_the_access_log_is_on(tmp_path: Path, *, logged: bool) -> None:
    """With the messages and their bytes in both directions; never with their text."""
    app = Echo()
    with capture_logs() as lines:
        async with guarded(app, tmp_path, options={"access_log": logged}) as guard:
            server = Server(guard, authorization=f"Bearer {token('ann')}")
            assert (await server.next())["type"] == "websocket.accept"
            for text in ("hello", "grüße"):
                server.events.put_nowait({"type": "websocket.receive", "text": text})
                assert (await server.next())["text"] == text
            await server.end()
    records = [line for line in lines if line["event"] == "connection_end"]
    assert len(records) == int(logged)
    assert "hello" not in str(lines)
    for record in records:
        assert (record["messages_in"], record["messages_out"]) == (2, 2)
        assert (record["bytes_in"], record["bytes_out"]) == (12, 12)
        assert (record["code"], record["transport"]) == (1000, "websocket")
        assert record["trace_id"] in {line["trace_id"] for line in lines if line["event"] == "handshake"}


@pytest.mark.parametrize(("message", "code"), [({"code": 4001}, 4001), ({}, 1000)])
async def test_an_application_s_own_close_is_the_end(
    tmp_path: Path, message: dict[str, int], code: int
) -> None:
    """Counted and recorded with its code; the slot is free although the application goes on."""
    go_on = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", **message})
        await go_on.wait()

    with capture_logs() as lines:
        async with guarded(app, tmp_path, options={"access_log": True}) as guard:
            server = Server(guard, authorization=f"Bearer {token('ann')}")
            assert (await server.next())["type"] == "websocket.accept"
            assert await server.next() == {"type": "websocket.close", **message}
            core = await guard.start()
            await until(lambda: core.limiter.total == 0)
            assert not server.task.done()
            go_on.set()
            await asyncio.wait_for(server.task, within(5))
            assert core.meter.counts("disconnects") == {(str(code),): 1}
    assert [line["code"] for line in lines if line["event"] == "connection_end"] == [code]


async def test_a_start_up_that_fails_ends_the_guard_too(tmp_path: Path) -> None:
    """The application's word reaches the server, which then ends; the guard's store is closed before."""

    async def failing(scope: Message, receive: Any, send: Any) -> None:
        del scope
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async with guarded(failing, tmp_path) as guard:
        core = await guard.start()
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        await guard({"type": "lifespan", "asgi": {}}, receive, send)
        assert sent == [{"type": "lifespan.startup.failed", "message": "no database"}]
        assert core.state() == "stopped"


async def asked(guard: Guard, path: str) -> tuple[int, bytes]:
    """Status and body of the answer to a GET."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "scheme": "http"}
    scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    await guard(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_routes_move_and_are_left_to_the_application(tmp_path: Path) -> None:
    """Below another prefix, and all but those that `without` names; the application answers every other path."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        del receive
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    left = ["/metrics", "/auth/logout", "/problems", "/chat/stats"]
    apps = ["/metrics", "/auth/logout", "/chat/stats", "/problems/token_expired", "/ws/health", "/mine"]
    async with guarded(app, tmp_path, prefix="/chat", without=left) as guard:
        for path in ("/livez", "/readyz", "/chat/health", "/chat/config", "/chat/beacon", "/chat/client.js"):
            assert (await asked(guard, path))[0] == 200, path
        config = json.loads((await asked(guard, "/chat/config"))[1])
        assert config["paths"]["ticket"] == "/chat/ticket"
        for path in apps:
            assert await asked(guard, path) == (299, path.encode()), path


async def test_a_public_path_is_none_that_is_guarded_by_its_other_name(tmp_path: Path) -> None:
    """Below a root a path has two names; the application behind may route by either."""
    reached: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        del receive, send
        reached.append(scope["path"])

    async with guarded(app, tmp_path, public=["/open", "/free"]) as guard:
        guard._paths = PathPatterns(["/ws", "/api/open"])
        for path in ("/api/open", "/api/free"):
            sent: list[Message] = []

            async def send(message: Message, sent: list[Message] = sent) -> None:
                sent.append(message)

            async def receive() -> Message:
                return {"type": "websocket.connect"}

            scope = {
                "type": "websocket",
                "path": path,
                "root_path": "/api",
                "headers": [(b"host", b"localhost")],
            }
            await guard(scope | {"client": ("127.0.0.1", 1), "subprotocols": []}, receive, send)
            assert bool(sent) is (path == "/api/open")
    assert reached == ["/api/free"]


async def test_an_ended_socket_is_freed_at_once(tmp_path: Path) -> None:
    """Nothing of it waits for the garbage collector: under churn that would keep the server's whole connections."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    def left() -> int:
        kinds = (GuardedSocket, SocketLife, ConnectionContext)
        return sum(type(one) in kinds for one in gc.get_objects())

    async with guarded(app, tmp_path) as guard:
        before = left()
        gc.disable()
        try:
            server = Server(guard, authorization=f"Bearer {token()}")
            await server.next()
            assert left() == before + 3
            events = weakref.ref(server.events)
            await server.end()
            del server
            await asyncio.sleep(0)
            assert (left(), events()) == (before, None)
        finally:
            gc.enable()


async def test_a_task_that_goes_on_is_told_of_the_end(tmp_path: Path) -> None:
    """After the application's call has returned, its `receive` reports the end, and its `send` has no effect."""
    kept: list[Any] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        kept[:] = [receive, send]
        await receive()

    async with guarded(app, tmp_path) as guard:
        server = Server(guard, authorization=f"Bearer {token()}")
        await server.next()
        await server.end()
        receive, send = kept
        assert await receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        with pytest.raises(ClosedByGuard):
            await send({"type": "websocket.send", "text": "late"})
        assert server.sent.empty()
