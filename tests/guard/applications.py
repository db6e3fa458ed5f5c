"""Applications as teams have them, each with one WebSocket at /ws, and a guard around the one that `app` names.

The handlers know nothing of narthex: they accept, echo, and answer `whoami` with what they were given of the request. A
line in the file NARTHEX_TEST_REACHED says that the handler ran. Served as `tests.guard.applications:app`.
"""

import json
import os
from pathlib import Path
from typing import Any

import narthex

KIND = os.environ.get("NARTHEX_TEST_APP", "starlette")


def reached() -> None:
    """Write down that the handler ran."""
    with Path(os.environ["NARTHEX_TEST_REACHED"]).open("a") as file:
        file.write("reached\n")


def given(scope: Any) -> str:
    """What the handler was given of the request, as JSON."""
    user = scope.get("user")
    return json.dumps(
        {
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]
            ],
            "query": scope["query_string"].decode("latin-1"),
            "subprotocols": list(scope.get("subprotocols") or ()),
            "user": None if user is None else str(user),
            "tenant": narthex.identity(scope).tenant if "narthex" in scope else "",
            "test_run": narthex.identity(scope).test_run if "narthex" in scope else "",
        }
    )


def make_starlette() -> Any:
    """A Starlette application."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def endpoint(socket: WebSocket) -> None:
        reached()
        wanted = [name for name in socket.scope["subprotocols"] if name == "chat.v2"]
        await socket.accept(wanted[0] if wanted else None)
        try:
            while True:
                text = await socket.receive_text()
                await socket.send_text(given(socket.scope) if text == "whoami" else text)
        except WebSocketDisconnect as gone:
            _ended(gone.code)

    return Starlette(routes=[WebSocketRoute("/ws", endpoint)])


def make_fastapi() -> Any:
    """A FastAPI application with a lifespan and a dependency of its own."""
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager
    from typing import Annotated

    from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"greeting": "hello"}

    app = FastAPI(lifespan=lifespan)

    async def room(socket: WebSocket) -> str:
        return socket.query_params.get("room", "lobby")

    @app.websocket("/ws")
    async def endpoint(socket: WebSocket, room: Annotated[str, Depends(room)]) -> None:
        reached()
        wanted = [name for name in socket.scope["subprotocols"] if name == "chat.v2"]
        await socket.accept(wanted[0] if wanted else None)
        try:
            while True:
                text = await socket.receive_text()
                if text == "room":
                    text = f"{room} {socket.state.greeting}"
                await socket.send_text(given(socket.scope) if text == "whoami" else text)
        except WebSocketDisconnect as gone:
            _ended(gone.code)

    @app.get("/plain")
    async def plain() -> dict[str, str]:
        return {"plain": "http"}

    return app


def make_quart() -> Any:
    """A Quart application."""
    import asyncio

    from quart import Quart, websocket

    app = Quart(__name__)

    @app.websocket("/ws")
    async def endpoint() -> None:
        reached()
        wanted = [name for name in websocket.requested_subprotocols if name == "chat.v2"]
        await websocket.accept(subprotocol=wanted[0] if wanted else None)
        try:
            while True:
                text = await websocket.receive()
                await websocket.send(given(websocket.scope) if text == "whoami" else text)
        except asyncio.CancelledError:  # as Quart reports a disconnect
            _ended(0)
            raise

    return app


def make_channels() -> Any:
    """A Django Channels application: HTTP by Django, a consumer for the WebSocket."""
    import django
    from django.conf import settings

    settings.configure(
        ROOT_URLCONF="tests.guard.django_urls",
        SECRET_KEY="test",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["channels"],
    )
    django.setup()
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.core.asgi import get_asgi_application
    from django.urls import re_path

    class Chat(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
        async def connect(self) -> None:
            reached()
            wanted = [name for name in self.scope["subprotocols"] if name == "chat.v2"]
            await self.accept(wanted[0] if wanted else None)

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            if bytes_data is not None:
                await self.send(bytes_data=bytes_data)
            else:
                await self.send(given(self.scope) if text_data == "whoami" else text_data)

        async def disconnect(self, code: int) -> None:
            _ended(code)

    return ProtocolTypeRouter(
        {"http": get_asgi_application(), "websocket": URLRouter([re_path(r"^ws$", Chat.as_asgi())])}
    )


def _ended(code: int) -> None:
    with Path(os.environ["NARTHEX_TEST_REACHED"]).open("a") as file:
        file.write(f"ended {code}\n")


MAKERS = {
    "starlette": make_starlette,
    "fastapi": make_fastapi,
    "quart": make_quart,
    "channels": make_channels,
}


def first_message(message: str | bytes) -> tuple[str, None]:
    """The token in a client's first message, for a guard with in-band proof."""
    return json.loads(message)["token"], None


async def probe(socket: Any) -> None:
    """Use the endpoint as a client does."""
    await socket.send("ping")
    assert await socket.recv() == os.environ["NARTHEX_TEST_PROBE"]


bare = MAKERS[KIND]() if "NARTHEX_TEST_REACHED" in os.environ else None
app = (
    narthex.Guard(
        bare,
        paths=["/ws"],
        probe=probe if "NARTHEX_TEST_PROBE" in os.environ else None,
        in_band=first_message if "NARTHEX_TEST_IN_BAND" in os.environ else None,
    )
    if bare is not None and "NARTHEX_TEST_BARE" not in os.environ
    else bare
)
