"""A chat with rooms and messages of its own. The guard admits users; this program never sees a token."""

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse
from pydantic import BaseModel

import narthex

api = FastAPI()
rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


@api.websocket("/ws/{room}")
async def chat(
    socket: WebSocket, room: str, user: Annotated[narthex.Identity, Depends(narthex.current_identity)]
) -> None:
    """Pass each message to everybody in the room, under the verified name of its sender."""
    await socket.accept()
    rooms[room].add(socket)
    try:
        while True:
            text = await socket.receive_text()
            for member in list(rooms[room]):
                await member.send_json({"from": user.subject, "text": text})
    except WebSocketDisconnect:
        pass  # the user left, or the guard ended the connection: its token expired or was revoked
    finally:
        rooms[room].discard(socket)


@api.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(Path(__file__).with_name("page.html"))


class Login(BaseModel):
    """Who signs in. A real login also asks for a proof."""

    name: str


@api.post("/login")
def login(form: Login) -> dict[str, Any]:
    """Stands for the login that you have: it gives a signed token for ten minutes."""
    claims = {"sub": form.name, "exp": int(time.time()) + 600}
    return {"token": jwt.encode(claims, os.environ["NARTHEX_JWT_SECRET"], "HS256")}


app = narthex.Guard(api, paths=["/ws/{room}"])
