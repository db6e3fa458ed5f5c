"""narthex inside another program: its routes beside ours, its verifier instead of ours, on one port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

import narthex
from narthex.domain.identity import Identity
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import ConfigError
from narthex.ports.tokens import VerifierStatus
from narthex.testing import gateway
from tests.acceptance.program import clean_environment
from tests.timing import within


@narthex.agent(description="Counts words")
async def counter(run: narthex.RunInput) -> AsyncIterator[str]:
    """An agent of the embedding program."""
    yield f"{len(run.messages[-1].content.split())} words"


class Sessions:
    """A verifier of the embedding program."""

    def __init__(self) -> None:
        self.life: list[str] = []

    async def start(self) -> None:
        self.life.append("start")

    async def stop(self) -> None:
        self.life.append("stop")

    def verify(self, token: str, *, now: float, traffic: str) -> Verdict | Awaitable[Verdict]:
        if token == "away":
            return Unavailable("the session table is away", retry_after_s=7)
        if token == "later":
            return self._later()
        if token.startswith("session-"):
            return Valid(Identity(subject=token.removeprefix("session-"), tenant="team"))
        return Rejected("token_invalid")

    async def _later(self) -> Verdict:
        return Valid(Identity(subject="later"))

    async def check(self) -> VerifierStatus:
        return VerifierStatus(status="healthy", detail="session table")


async def hello(request: Request) -> PlainTextResponse:
    """A plain Starlette route."""
    return PlainTextResponse(f"hello {request.query_params.get('name', '')}")


async def test_mounted_applications_know_the_root_path(tmp_path: Path) -> None:
    """FastAPI's own documents lead back through the proxy; the program's WebSocket below it is found."""
    mine = FastAPI()

    @mine.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.scope["root_path"])
        await socket.close()

    async with gateway(tmp_path, root_path="/chat", routes=[Mount("/mine", app=mine)]) as running:
        async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
            assert "url: '/chat/mine/openapi.json'" in (await http.get("/mine/docs")).text
            assert (await http.get("/mine/openapi.json")).json()["servers"] == [{"url": "/chat/mine"}]
        async with connect(f"{running.http.replace('http', 'ws')}/mine/echo", proxy=None) as raw:
            assert await raw.recv() == "/chat/mine"


async def test_routes_agents_and_verifier_of_another_program(tmp_path: Path) -> None:
    """Starlette and FastAPI beside the socket; the program's own sessions admit, refuse and are unavailable."""
    mine = FastAPI()

    @mine.get("/sum")
    async def total(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    sessions = Sessions()
    routes = [Route("/hello", hello), Mount("/mine", app=mine)]
    async with gateway(tmp_path, agents=[counter], routes=routes, verifier=sessions) as running:
        async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
            assert (await http.get("/hello?name=ada")).text == "hello ada"
            assert (await http.get("/mine/sum?a=2&b=3")).json() == {"sum": 5}
            health = (await http.get("/ws/health")).json()
            assert health["checks"]["auth"]["detail"] == "session table"
            assert health["checks"]["agents"]["detail"] == "counter"
        for token, user in (("session-ada", "ada"), ("later", "later")):
            async with connect(
                running.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
            ) as raw:
                await raw.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"whoami"}}')
                replies = "\n".join([str(await raw.recv()), str(await raw.recv())])
                assert f'"user":"{user}"' in replies
        for token, status, code in (("nonsense", 401, "token_invalid"), ("away", 503, "auth_unavailable")):
            with pytest.raises(InvalidStatus) as caught:
                await connect(running.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)
            assert caught.value.response.status_code == status
            assert json.loads(caught.value.response.body or b"")["code"] == code
        assert caught.value.response.headers["retry-after"] == "7"
    assert sessions.life == ["start", "stop"]


def test_agents_need_names_of_their_own(tmp_path: Path) -> None:
    """Two of one name, and none at all, are configuration errors."""
    with pytest.raises(ConfigError):
        narthex.create_gateway({"data_dir": tmp_path}, agents=[counter, counter])
    with pytest.raises(ConfigError):
        narthex.create_gateway({"data_dir": tmp_path}, agents=[])


def test_a_port_in_use_is_told_without_the_frames_inside(tmp_path: Path) -> None:
    """`run()` in a script: the last line has the remedy, and nothing above it shows narthex's internals."""
    script = tmp_path / "mine.py"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        script.write_text(
            "import narthex\n\nasync def mine(run):\n    yield 'x'\n\n"
            f"narthex.create_gateway({{'port': {port}, 'data_dir': {str(tmp_path / 'data')!r}}}, agents=[mine]).run()\n"
        )
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=within(30),
            env=clean_environment({}),
            check=False,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"ConfigError: Cannot listen on 127.0.0.1:{port} (Address already in use). Free the port" in last
    assert "bug" not in done.stderr
    assert "uvloop" not in done.stderr


def test_a_missing_extra_is_told_when_the_gateway_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"pip install 'narthex\[postgres\]'"):
        narthex.create_gateway(
            {"data_dir": tmp_path, "store_url": "postgresql://db.example/x"}, agents=[counter]
        )


async def shout(socket: WebSocket) -> None:
    """A WebSocket of the embedding program."""
    await socket.accept(subprotocol="mine" if "mine" in socket.scope["subprotocols"] else None)
    await socket.send_text((await socket.receive_text()).upper())
    await socket.close(4242)


async def test_websocket_routes_of_another_program(tmp_path: Path) -> None:
    """Starlette's, and FastAPI's behind a mount, beside narthex's own on one port; each keeps its own close code."""
    mine = FastAPI()

    @mine.websocket("/rooms/{name}")
    async def room(socket: WebSocket, name: str) -> None:
        await socket.accept()
        await socket.send_json({"room": name, "said": await socket.receive_text()})
        await socket.receive_text()

    routes = [WebSocketRoute("/shout", shout), Mount("/mine", app=mine), Route("/hello", hello)]
    async with gateway(tmp_path, agents=[counter], routes=routes) as running:
        base = running.ws.removesuffix("/ws")
        edge = running.gateway.edge
        assert edge is not None
        async with connect(f"{base}/shout", subprotocols=[Subprotocol("mine")], proxy=None) as raw:
            assert raw.subprotocol == "mine"
            await raw.send("hi")
            assert await raw.recv() == "HI"
            with pytest.raises(ConnectionClosed):
                await raw.recv()
            assert raw.close_code == 4242
        async with connect(f"{base}/mine/rooms/a", proxy=None) as raw:
            await raw.send("x")
            assert json.loads(await raw.recv()) == {"room": "a", "said": "x"}
            assert edge.open == 1
        for path, status in (("/nowhere", 404), ("/hello", 404), ("/mine/nothing", 403)):
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{base}{path}", proxy=None)
            assert caught.value.response.status_code == status
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{base}/shout", additional_headers={"Host": "evil.example"}, proxy=None)
        assert caught.value.response.status_code == 400
        async with connect(
            running.ws, additional_headers={"Authorization": f"Bearer {running.token('ada')}"}, proxy=None
        ) as raw:
            await raw.send('{"id":1,"connect":{}}')
            assert '"client"' in str(await raw.recv())
        async with asyncio.timeout(within(5)):
            while edge.open:  # noqa: ASYNC110 - the count has no event
                await asyncio.sleep(0.01)


async def test_a_mount_at_the_root_does_not_take_narthexs_own_socket(tmp_path: Path) -> None:
    """`Mount("/", app)` is usual; clients must still reach the socket."""
    async with gateway(
        tmp_path, agents=[counter], routes=[Mount("/site", app=FastAPI()), Mount("/", app=FastAPI())]
    ) as running:
        headers = {"Authorization": f"Bearer {running.token('ada')}"}
        async with connect(running.ws, additional_headers=headers, proxy=None) as raw:
            await raw.send('{"id":1,"connect":{}}')
            assert '"client"' in str(await raw.recv())


class Opened:
    """A FastAPI application whose lifespan opens a resource, as teams do with a connection pool."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.events: list[str] = []

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
            self.events.append("start")
            await asyncio.sleep(0)
            if fault is not None:
                raise fault
            yield {"pool": "open"}
            await asyncio.sleep(0)
            self.events.append("stop")

        self.app = FastAPI(lifespan=lifespan)

        @self.app.get("/pool")
        async def pool(request: Request) -> dict[str, str]:
            return {"pool": request.state.pool}

        @self.app.websocket("/pool")
        async def pool_socket(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(socket.state.pool)
            await socket.close()


async def test_a_mounted_application_s_lifespan_runs(tmp_path: Path) -> None:
    """Once for all its mounts; HTTP and WebSocket requests get the state that it yields, other applications do not."""
    opened, other = Opened(), FastAPI()

    @other.get("/state")
    async def state(request: Request) -> dict[str, bool]:
        return {"pool": hasattr(request.state, "pool")}

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await PlainTextResponse("plain")(scope, receive, send)

    routes = [
        Mount("/mine", app=opened.app),
        Mount("/again", app=opened.app),
        Mount("/other", app=other),
        Mount("/plain", app=without_lifespan),
    ]
    before = [route.app for route in routes]
    async with gateway(tmp_path, agents=[counter], routes=routes) as running:
        assert opened.events == ["start"]
        async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
            for path in ("/mine/pool", "/again/pool"):
                assert (await http.get(path)).json() == {"pool": "open"}
            assert (await http.get("/other/state")).json() == {"pool": False}
            assert (await http.get("/plain/")).text == "plain"
        async with connect(f"{running.ws.removesuffix('/ws')}/mine/pool", proxy=None) as raw:
            assert await raw.recv() == "open"
    assert opened.events == ["start", "stop"]
    assert [route.app for route in routes] == before


async def test_a_mounted_application_that_does_not_start_ends_the_gateway(tmp_path: Path) -> None:
    """With its own exception, as under any server."""
    opened = Opened(RuntimeError("the database of this application is away"))
    with pytest.raises(RuntimeError, match="of this application"):
        async with gateway(tmp_path, agents=[counter], routes=[Mount("/mine", app=opened.app)]):
            raise AssertionError("it must not be ready")


async def test_requests_before_a_mounted_application_has_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP and WebSocket requests get 503 `starting`: an application is never called before its start-up."""
    going_on = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await going_on.wait()
        yield

    mine = FastAPI(lifespan=lifespan)

    @mine.get("/ready")
    async def ready() -> str:
        return "ready"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = narthex.create_gateway(
        {"port": port, "data_dir": tmp_path, "drain_grace_s": 1.0},
        agents=[counter],
        routes=[Mount("/mine", app=mine)],
    )
    async with contextlib.AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(made.running()))
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            async with asyncio.timeout(within(10)):
                while True:
                    with contextlib.suppress(httpx2.ConnectError):
                        early = await http.get("/mine/ready")
                        break
                    await asyncio.sleep(0.02)
            assert (early.status_code, early.json()["code"]) == (503, "starting")
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"ws://127.0.0.1:{port}/mine/ready", proxy=None)
            assert caught.value.response.status_code == 503
            assert "without completing" not in caplog.text
            going_on.set()
            await opening
            assert (await http.get("/mine/ready")).json() == "ready"
